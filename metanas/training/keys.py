"""The page on the keys of a configuration, from the dataclasses that declare them."""

import inspect
from collections.abc import Iterator
from dataclasses import MISSING, is_dataclass
from typing import get_type_hints

from metanas.training.config import RunConfig
from metanas.training.config_file import toml_of
from metanas.util.fields import Declaration, describe


def sections() -> Iterator[tuple[str, str, list[Declaration]]]:
    """Yield name, meaning and keys of each section; the one without a name comes first."""
    hints: dict[str, type] = get_type_hints(RunConfig)
    nested: dict[str, type] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    for name, kind in {"": RunConfig, **nested}.items():
        yield name, (inspect.getdoc(kind) or "").splitlines()[0], describe(kind)


def page() -> str:
    """Return the page in Markdown."""
    intro = "`python -m metanas keys` makes this page from the code that checks the keys. "
    intro += "[training.md](training.md) explains their use."
    lines = ["# Keys of a configuration", "", intro, ""]
    for name, meaning, keys in sections():
        lines += [f"## `[{name}]`" if name else "## Before the first section", "", meaning, ""]
        for key in keys:
            required = key.default is MISSING
            default = "required" if required else f"default `{toml_of(key.default)}`"
            lines.append(f"- `{key.name}` ({key.kind}; {default}): {key.help}")
        lines.append("")
    return "\n".join(lines)
