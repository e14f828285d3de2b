"""Plain data (JSON, TOML) to frozen dataclasses and back, with an error for all wrong keys."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from metanas.errors import InvalidInput, Violation
from metanas_data.suggest import nearest_or_all

T = TypeVar("T")


def build(kind: type[T], raw: Any) -> T:
    """Build an instance of the dataclass `kind` from a mapping, nested ones included.

    Raises:
        InvalidInput: unknown, missing or mistyped keys, all of them at once (reasons
            CONFIG_UNKNOWN_KEY, CONFIG_MISSING_KEY, CONFIG_TYPE), or values that `kind` refuses.
    """
    if not isinstance(raw, Mapping):
        raise InvalidInput.single("", "CONFIG_TYPE", f"expected an object of keys, got {raw!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind) if f.init}  # type: ignore[arg-type]
    bad = [
        Violation(key, "CONFIG_UNKNOWN_KEY", f"no such key.{nearest_or_all(key, known)}")
        for key in raw
        if key not in known
    ]
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in raw:
            values[name] = _convert(hints[name], raw[name], name, bad)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            bad.append(Violation(name, "CONFIG_MISSING_KEY", "this key is required"))
    if bad:
        raise InvalidInput(bad)
    return kind(**values)


def dump(value: Any) -> dict[str, Any]:
    """Return the dataclass `value` as a mapping that `build` reads back."""
    plain = asdict(value)
    return {each.name: plain[each.name] for each in fields(value) if each.init}


def differences(there: Any, here: Any, free: Container[str] = ()) -> list[str]:
    """Name the fields in which two values of a dataclass differ, but for those in `free`.

    Fields of nested dataclasses are called `section.name`.
    """
    one, other = _flat(there), _flat(here)
    return [
        f"{name} is {json.dumps(one[name])} there and {json.dumps(other[name])} here"
        for name in one
        if name not in free and one[name] != other[name]
    ]


def _flat(value: Any) -> dict[str, Any]:
    return {
        f"{section}.{name}" if name else section: each
        for section, whole in json.loads(json.dumps(dump(value))).items()
        for name, each in (whole.items() if isinstance(whole, dict) else [("", whole)])
    }


def _convert(hint: Any, value: Any, where: str, bad: list[Violation]) -> Any:
    origin = get_origin(hint)
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return _nested(hint, value, where, bad)
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(get_args(hint), value, where, bad)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        inner = get_args(hint)[1]
        return {k: _convert(inner, v, f"{where}.{k}", bad) for k, v in value.items()}
    return _plain(hint, value, where, bad)


def _nested(kind: Any, value: Mapping[str, Any], where: str, bad: list[Violation]) -> Any:
    try:
        return build(kind, value)
    except InvalidInput as error:
        bad.extend(error.within(where).violations)
        return value


def _tuple(
    hints: tuple[Any, ...], value: Sequence[Any], where: str, bad: list[Violation]
) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        message = f"expected {len(hints)} values, got {len(value)}"
        bad.append(Violation(where, "CONFIG_TYPE", message))
        return tuple(value)
    return tuple(_convert(hint, v, where, bad) for hint, v in zip(hints, value, strict=True))


def _plain(hint: Any, value: Any, where: str, bad: list[Violation]) -> Any:
    allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if hint is Any or type(value) in allowed:
        return value
    if float in allowed and type(value) is int:
        return float(value)
    expected = "a table of keys"
    if not is_dataclass(hint):
        expected = getattr(hint, "__name__", str(hint)).replace("tuple", "list")  # as TOML calls it
    bad.append(Violation(where, "CONFIG_TYPE", f"expected {expected}, got {value!r}"))
    return value
