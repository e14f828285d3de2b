"""`metanas completion`: the completion of a shell, for commands, options and files."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from metanas_client.cli import core
from metanas_client.cli.exits import OK
from metanas_client.errors import MissingExtra
from metanas_client.extras import needs
from metanas_data.suggest import existing, existing_folder

BASH = "~/.local/share/bash-completion/completions"
SHELLS = ("bash", "zsh", "tcsh", "fish")
PATHS = (Path, existing, existing_folder)
"""Types of arguments that name a file or a folder."""


def add_commands(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Declare the command; `parser` builds the one of all commands."""
    command = commands.add_parser(
        "completion",
        help="print the completion of a shell",
        description="Prints a script that completes commands, options and files. For bash: "
        f"mkdir -p {BASH} && metanas completion bash > {BASH}/metanas",
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(
        run=lambda arguments, screen: _print(parser(), arguments.shell), json=False
    )


def _print(top: argparse.ArgumentParser, shell: str) -> int:
    with needs("cli"):
        import shtab
    _complete_core(top)
    for command in _every(top):
        for action in command._actions:
            if action.type in PATHS or action.dest == "images":
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(top, shell))
    return OK


def _complete_core(top: argparse.ArgumentParser) -> None:
    """Replace the names of the core's commands by the commands, where the core is installed."""
    try:
        commands = core.parser()
    except MissingExtra:
        return
    names = _choices(top)
    names.update({name: each for name, each in _choices(commands).items() if name in core.COMMANDS})


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands of a parser."""
    for action in parser._actions:
        if isinstance(action.choices, dict) and action.nargs == argparse.PARSER:
            return action.choices
    return {}


def _every(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for command in _choices(parser).values():
        yield from _every(command)
