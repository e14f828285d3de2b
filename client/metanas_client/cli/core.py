"""Commands of the core, `metanas train` and others, where it is installed."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from metanas_client.extras import needs

EXTRA = "local"
COMMANDS: Mapping[str, str] = {
    "train": "meta-train a supernet and write a checkpoint",
    "compare": "compare two evaluations episode by episode",
    "scores": "write accuracies of evaluations into the card of a checkpoint",
    "universal": "fit the prior of the universal search space",
    "profile": "measure the milliseconds of each branch of the universal search space",
    "tensorboard": "export the log of a run for TensorBoard",
    "keys": "print all keys of a configuration, in Markdown",
}
"""Names and helps, which are those of the core: the help of the client does not import it."""


def add_commands(commands: Any) -> None:
    """List the commands. `run` executes them before any argument is parsed."""
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)


def is_for_core(arguments: Sequence[str]) -> bool:
    """Return True if the core executes this command line."""
    name = next(iter(arguments), "")
    return name in COMMANDS or (name == "evaluate" and "--local" in arguments)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the core.

    Raises:
        MissingExtra: the core is not installed.
    """
    with needs(EXTRA):
        from metanas.__main__ import parser as build
    return build()


def run(arguments: Sequence[str]) -> int:
    """Execute a command line with the core; return the exit code.

    Raises:
        MissingExtra: the core is not installed.
    """
    with needs(EXTRA):
        from metanas.__main__ import main
    return main(list(arguments))
