"""The keys of a configuration, read off the dataclasses that hold them: nothing is said twice."""

import ast
import inspect
import textwrap
from collections.abc import Container, Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from metanas.training.config import RunConfig
from metanas.training.config_file import toml_of

KINDS = {
    "str": "text",
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "tuple[str, ...]": "list of texts",
    "tuple[int, ...]": "list of whole numbers",
    "tuple[float, ...]": "list of numbers",
    "tuple[int, int]": "two whole numbers",
}
"""Types as users call them."""


@dataclass(frozen=True)
class Key:
    """What can be set."""

    name: str
    kind: str
    """Its type, as `KINDS` has it."""
    default: str
    """In TOML; empty if it has to be given."""
    meaning: str


def sections() -> Iterator[tuple[str, str, list[Key]]]:
    """Name, meaning and keys of every section; that without a name comes first."""
    hints: dict[str, type] = get_type_hints(RunConfig)
    nested = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    whole = keys_of(RunConfig, nested)
    yield "", _first_line(RunConfig), whole
    for name, kind in nested.items():
        yield name, _first_line(kind), keys_of(kind)


def keys_of(kind: type, but: Container[str] = ()) -> list[Key]:
    """The fields of a dataclass but for some, each with the text that stands below it."""
    told = _told(kind)
    return [
        Key(one.name, KINDS[told[one.name][0]], _default(one), told[one.name][1])
        for one in fields(kind)
        if one.name not in but
    ]


def page() -> str:
    """All keys in Markdown."""
    lines = ["# Keys of a configuration", ""]
    lines += ["Made by `python -m metanas keys` from the code that checks them. Keys without a"]
    lines += ["default have to be given. How they play together: [training.md](training.md).", ""]
    for name, meaning, keys in sections():
        lines += [f"## `[{name}]`" if name else "## Before the first section", "", meaning, ""]
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        for key in keys:
            default = f"`{key.default}`" if key.default else "–"
            meaning = key.meaning.replace("|", "\\|")
            lines.append(f"| `{key.name}` | {key.kind} | {default} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _told(kind: type) -> dict[str, tuple[str, str]]:
    """Name of a field -> its type as it is written, and the text below it."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    found: dict[str, tuple[str, str]] = {}
    for statement, below in zip(made.body, [*made.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = ast.unparse(statement.annotation), _text(below)
    return found


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _default(one: "Field[Any]") -> str:
    """As TOML has it."""
    if one.default is MISSING:
        return ""
    return toml_of(one.default)


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]
