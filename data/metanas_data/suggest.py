"""Suggestions for misspelt names, a parser of command lines that makes them, and its types."""

import argparse
import math
import os
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is nearest, as a sentence; empty if none is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest known name, or list all known names, as a sentence."""
    names = list(known)
    return did_you_mean(name, names) or f" Known: {', '.join(names)}."


def did_you_mean_file(path: Path) -> str:
    """Suggest the file or folder beside a path that cannot be read whose name is nearest."""
    here = path.absolute()
    try:
        names = [entry.name for entry in here.parent.iterdir() if entry != here]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


class Parser(argparse.ArgumentParser):
    """Report unknown arguments with the usage of their sub-command, and suggest a correction.

    argparse alone would show the usage of the top command. Errors end the program with exit code 2.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse as argparse does; unknown arguments end the program."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse(unknown)
        return parsed, unknown

    def _refuse(self, arguments: list[str]) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        hints = [did_you_mean(one.partition("=")[0], options) for one in arguments]
        self.error(f"unrecognized arguments: {' '.join(arguments)}.{''.join(hints)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        hint = did_you_mean(str(value), known)
        message = f"invalid choice: {value!r}.{hint} Choose from {', '.join(known)}."
        raise argparse.ArgumentError(action, message)


def existing(text: str) -> Path:
    """Read the path of a file or folder that has to exist; a type of argparse."""
    path = Path(text)
    if not os.path.exists(path):  # Path.exists fails for a name that is too long
        raise argparse.ArgumentTypeError(f"there is no {path}.{did_you_mean_file(path)}")
    return path


def existing_folder(text: str) -> Path:
    """Read the path of a folder that has to exist; a type of argparse."""
    path = existing(text)
    if not path.is_dir():
        message = f"{path} is a file; name its folder, {path.parent}"
        raise argparse.ArgumentTypeError(message)
    return path


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """Return a type of argparse that reads a whole number between two bounds."""
    bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"

    def read(text: str) -> int:
        if text.lstrip("-").isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text} is not a whole number {bounds}")

    return read
