"""The sub-commands of `metanas-server`: they work on a data folder, and then the program ends."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metanas_server.app import lock_folder
from metanas_server.config import PREFIX, CommandLine, ServerConfig
from metanas_server.errors import StartError
from metanas_server.storage import maintenance
from metanas_server.storage.artefacts import Store
from metanas_server.storage.place import open_store

Command = Callable[[argparse.Namespace], list[str]]


def run(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a sub-command and print what it did.

    Raises:
        SystemExit: `--help`.
        MetanasError: the arguments are wrong, or the command cannot be done.
    """
    command, text = COMMANDS[name]
    parser = CommandLine(prog=f"metanas-server {name}", description=text, allow_abbrev=False)
    if name != "repair":
        parser.add_argument("folder", type=Path, metavar="BACKUP", help="folder of the backup")
    data = Path(environment.get(f"{PREFIX}DATA", ServerConfig.data))
    text = f"data folder of the server (default: {data})"
    parser.add_argument("--data", type=Path, default=data, metavar="PATH", help=text)
    place = environment.get(f"{PREFIX}ARTEFACTS")
    text = "folder or s3://BUCKET/PREFIX of the artefacts, as for the server"
    parser.add_argument("--artefacts", default=place, metavar="TEXT", help=text)
    for line in command(parser.parse_args(arguments)):
        print(line)


def _backup(arguments: argparse.Namespace) -> list[str]:
    return maintenance.backup(arguments.data, _store(arguments), arguments.folder)


def _restore(arguments: argparse.Namespace) -> list[str]:
    handle = lock_folder(arguments.data)
    try:
        return maintenance.restore(arguments.data, _store(arguments), arguments.folder)
    finally:
        os.close(handle)


def _repair(arguments: argparse.Namespace) -> list[str]:
    if not arguments.data.is_dir():
        message = f"--data {arguments.data} is no folder; name the data folder of the server"
        raise StartError("CONFIG_INVALID", message)
    handle = lock_folder(arguments.data)
    try:
        return maintenance.repair(arguments.data, _store(arguments))
    finally:
        os.close(handle)


def _store(arguments: argparse.Namespace) -> Store:
    return open_store(arguments.artefacts, arguments.data)


COMMANDS: Mapping[str, tuple[Command, str]] = {
    "backup": (_backup, "Copy the data folder of a server, which may run, to a new folder."),
    "restore": (_restore, "Replace the content of a data folder by a backup; nothing is deleted."),
    "repair": (_repair, "Make a data folder usable again; damaged and unknown files are kept."),
}
"""The sub-commands by name."""
