"""Plain data (JSON, TOML) to frozen dataclasses and back, with every wrong key named."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from metanas.errors import InvalidInput, Violation

T = TypeVar("T")


def build(kind: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass `kind` from a mapping, nested ones included.

    Raises:
        InvalidInput: unknown, missing or mistyped keys, all of them at once (reasons
            CONFIG_UNKNOWN_KEY, CONFIG_MISSING_KEY, CONFIG_TYPE), or what `kind` itself refuses.
    """
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    bad = [
        Violation(where + key, "CONFIG_UNKNOWN_KEY", f"no such key; known: {', '.join(known)}")
        for key in raw
        if key not in known
    ]
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], where + name, bad)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            bad.append(Violation(where + name, "CONFIG_MISSING_KEY", "this key is required"))
    if bad:
        raise InvalidInput(bad)
    return kind(**values)


def dump(value: Any) -> dict[str, Any]:
    """The dataclass `value` as a mapping that `build` reads back."""
    return asdict(value)


def _convert(hint: Any, value: Any, where: str, bad: list[Violation]) -> Any:
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where + ".")
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_convert(get_args(hint)[0], item, where, bad) for item in value)
    if isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        inner = get_args(hint)[1]
        if isinstance(value, Mapping):
            return {k: _convert(inner, v, f"{where}.{k}", bad) for k, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        expected = getattr(hint, "__name__", str(hint))
        bad.append(Violation(where, "CONFIG_TYPE", f"expected {expected}, got {value!r}"))
    return value
