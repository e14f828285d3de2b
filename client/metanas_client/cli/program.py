"""The parser of all commands, and the run of one of them."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from metanas_client import __version__
from metanas_client.cli import (
    adapting,
    arguments,
    completion,
    core,
    evaluating,
    files,
    publishing,
    server,
    testing,
)
from metanas_client.cli.exits import EXPLAINED, READER_GONE, exit_code
from metanas_client.cli.screen import Screen, accept_every_character
from metanas_data.errors import MetanasError
from metanas_data.suggest import Parser

ABOUT = "Adapts meta-trained networks to a handful of labelled images."
NAME_WIDTH = 14


class Help(argparse.RawDescriptionHelpFormatter):
    """Leave the list of commands to the description, which has them in groups."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument that is no list of commands."""
        if action.nargs != argparse.PARSER:
            super().add_argument(action)


class Group:
    """Commands under one title in the help."""

    def __init__(self, commands: Any, title: str) -> None:
        self._commands = commands
        self._lines = [f"{title}:"]

    def add_parser(self, name: str, **settings: Any) -> argparse.ArgumentParser:
        """Add a command as argparse does."""
        self._lines.append(f"  {name:{NAME_WIDTH}}{settings['help']}")
        command: argparse.ArgumentParser = self._commands.add_parser(name, **settings)
        return command

    def __str__(self) -> str:
        return "\n".join(self._lines)


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = Parser(prog="metanas", epilog=EXPLAINED, formatter_class=Help)
    top.add_argument("--version", action="version", version=f"metanas {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    environment = arguments.environment()
    model = Group(commands, "make a model and use its file")
    adapting.add_commands(model, environment)
    files.add_commands(model)
    testing.add_commands(model)
    publishing.add_commands(model)
    service = Group(commands, "call a server")
    server.add_commands(service, environment)
    evaluating.add_commands(service, environment)
    training = Group(commands, 'make checkpoints (pip install "metanas-client[local]")')
    core.add_commands(training)
    shell = Group(commands, "set up the shell")
    completion.add_commands(shell, parser)
    groups = (model, service, training, shell)
    top.description = "\n\n".join([ABOUT, *map(str, groups)])
    return top


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    accept_every_character()
    screen = Screen(as_json=False)
    try:
        if core.is_for_core(argv):
            return core.run(argv)
        options = parser().parse_args(argv)
        screen = Screen(as_json=options.json)
        code: int = options.run(options, screen)
        sys.stdout.flush()
    except MetanasError as error:
        screen.error(error)
        return exit_code(error)
    except BrokenPipeError:
        # the buffered rest would fail again when the interpreter flushes it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code
