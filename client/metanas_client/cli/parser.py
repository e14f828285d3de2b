"""A parser whose errors show the usage of the sub-command and suggest a correction."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from metanas_client.text import did_you_mean


class Parser(argparse.ArgumentParser):
    """Report unknown arguments where they were given; argparse alone blames the top command."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse as argparse does; unknown arguments end the program."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._unknown(unknown)
        return found, unknown

    def _unknown(self, arguments: list[str]) -> NoReturn:
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
