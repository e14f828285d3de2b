"""Run the command line: `metanas`, or `python -m metanas_client`."""

import argparse
import os
import sys
from collections.abc import Sequence

from metanas_client import __version__
from metanas_client.cli import adapting, arguments, evaluating, files, server, testing
from metanas_client.cli.exits import EXPLAINED, INTERRUPTED, READER_GONE, exit_code
from metanas_client.cli.screen import Screen, accept_every_character
from metanas_data.errors import MetanasError
from metanas_data.suggest import Parser


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = Parser(
        prog="metanas",
        description="Adapts meta-trained networks to a handful of labelled images.",
        epilog=EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metanas {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    environment = arguments.environment()
    adapting.add_commands(commands, environment)
    files.add_commands(commands)
    testing.add_commands(commands)
    server.add_commands(commands, environment)
    evaluating.add_commands(commands, environment)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    accept_every_character()
    options = parser().parse_args(argv)
    screen = Screen(as_json=options.json)
    try:
        code: int = options.run(options, screen)
        sys.stdout.flush()
    except MetanasError as error:
        screen.error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        print("metanas: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the buffered rest would fail again when the interpreter flushes it at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    return code


if __name__ == "__main__":
    sys.exit(main())
