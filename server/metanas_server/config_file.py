"""Read the configuration file: TOML with the names of the options as keys."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metanas_data.suggest import did_you_mean
from metanas_server.errors import StartError


def read_config_file(path: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a file sets, by name, with unchecked values.

    kinds: types of the options that it may set.

    Raises:
        StartError: CONFIG_INVALID, the file cannot be read or names an unknown option.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else f"it is no TOML: {error}"
        message = f"--config {path} cannot be read: {cause}; give another file, or none"
        raise StartError("CONFIG_INVALID", message) from error
    for name in values:
        if name not in kinds:
            hint = did_you_mean(name, kinds) or " See metanas-server --help."
            message = f"--config {path}: there is no option {name!r}.{hint}"
            raise StartError("CONFIG_INVALID", message)
    return {name: _convert(value, kinds[name]) for name, value in values.items()}


def _convert(value: Any, kind: Any) -> Any:
    """Convert to the types that TOML lacks; a value of a wrong type stays, to be refused later."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
