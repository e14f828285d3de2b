"""Configurations from files and to them: TOML, and `--set section.key=value` for single values.

Unknown keys are errors.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metanas.errors import InvalidInput
from metanas.training.config import RunConfig
from metanas.util import dataclass_json as schema


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a configuration: TOML, or the JSON that lies beside a checkpoint's weights.

    Raises:
        InvalidInput: no such file, no TOML, unknown or missing keys, values out of bounds.
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
    return schema.build(RunConfig, raw)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of several `key=value` in TOML; the last one of a key counts.

    Raises:
        InvalidInput: one of them is no TOML.
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


def toml_of(value: object) -> str:
    """A plain value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    return repr(value)
