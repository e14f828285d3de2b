"""Configurations from TOML files and `--set section.key=value`, and the page on their keys.

Unknown keys are errors.
"""

import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from metanas.errors import InvalidInput
from metanas.training.config import RunConfig
from metanas.util import dataclass_json as schema
from metanas.util.fields import Declaration, describe


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check the configuration of a run: TOML, or the JSON in the folder of a checkpoint.

    Raises:
        InvalidInput: the file is missing or no TOML; keys are unknown or missing; values are out of
            bounds.
    """
    return schema.build(RunConfig, read_table(path, overrides))


def read_table(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a table of TOML or JSON, with the overrides in their places.

    Raises:
        InvalidInput: CONFIG_UNREADABLE, the file is missing, or is no table.
    """
    parse = json.loads if path.suffix == ".json" else tomllib.loads
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput.single(str(path), "CONFIG_UNREADABLE", str(error)) from error
    if not isinstance(raw, dict):
        message = f"is a JSON {type(raw).__name__}; a configuration is an object of sections"
        raise InvalidInput.single(str(path), "CONFIG_UNREADABLE", message)
    _merge(raw, parse_overrides(overrides))
    return raw


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse several `key=value` in TOML; the last value of a key counts.

    Raises:
        InvalidInput: CONFIG_UNREADABLE, a text is no TOML.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        try:
            _merge(values, tomllib.loads(override))
        except tomllib.TOMLDecodeError as error:
            message = f"{override!r} is not KEY=VALUE in TOML: {error}"
            raise InvalidInput.single("--set", "CONFIG_UNREADABLE", message) from error
    return values


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def sections() -> Iterator[tuple[str, str, list[Declaration]]]:
    """Yield name, meaning and keys of each section; the one without a name comes first."""
    hints: dict[str, type] = get_type_hints(RunConfig)
    nested: dict[str, type] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    for name, kind in {"": RunConfig, **nested}.items():
        yield name, (inspect.getdoc(kind) or "").splitlines()[0], describe(kind)


def page() -> str:
    """Return the page in Markdown."""
    intro = "`metanas keys` makes this page from the code that checks the keys. "
    intro += "[training.md](training.md) explains their use."
    lines = ["# Keys of a configuration", "", intro, ""]
    for name, meaning, keys in sections():
        lines += [f"## `[{name}]`" if name else "## Before the first section", "", meaning, ""]
        for key in keys:
            required = key.default is MISSING
            default = "required" if required else f"default `{json.dumps(key.default)}`"
            lines.append(f"- `{key.name}` ({key.kind}; {default}): {key.help}")
        lines.append("")
    return "\n".join(lines)
