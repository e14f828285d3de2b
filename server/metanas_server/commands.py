"""The sub-commands of `metanas-server`: they work on stored data, and then the program ends."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import close
from pathlib import Path

from sqlalchemy import URL

from metanas_server.config import CommandLine, add_flags, settle
from metanas_server.errors import StartError
from metanas_server.folders import folders_of, lock_folder
from metanas_server.records.address import open_database, read_address
from metanas_server.records.migrate import HEAD, Use
from metanas_server.storage import maintenance
from metanas_server.storage.artefacts import Store
from metanas_server.storage.place import open_store

OPTIONS = ("data", "artefacts", "records")
"""Options of the server that the commands take."""
Command = Callable[[argparse.Namespace, Path | URL], list[str]]


def run(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a sub-command and print what it did.

    Raises:
        SystemExit: `--help`.
        MetanasError: the arguments are wrong, or the command cannot be done.
    """
    command, text = COMMANDS[name]
    parser = CommandLine(prog=f"metanas-server {name}", description=text, allow_abbrev=False)
    if name in ("backup", "restore"):
        parser.add_argument("folder", type=Path, metavar="BACKUP", help="folder of the backup")
    add_flags(parser, ("config", *OPTIONS))
    options = parser.parse_args(arguments)
    config = settle(vars(options), environment, OPTIONS)
    for name in OPTIONS:
        setattr(options, name, getattr(config, name))
    for line in command(options, read_address(config.records, config.data)):
        print(line)


def _backup(options: argparse.Namespace, address: Path | URL) -> list[str]:
    return maintenance.backup(_file(address), _store(options), options.folder)


def _restore(options: argparse.Namespace, address: Path | URL) -> list[str]:
    database = _file(address)
    with _locked(options, database):
        return maintenance.restore(database, _store(options), options.folder)


def _repair(options: argparse.Namespace, address: Path | URL) -> list[str]:
    if not options.data.is_dir():
        message = f"--data {options.data} is no folder; name the data folder of the server"
        raise StartError("CONFIG_INVALID", message)
    with _locked(options, address):
        return maintenance.repair(options.data, address, _store(options))


def _migrate(options: argparse.Namespace, address: Path | URL) -> list[str]:
    if isinstance(address, Path) and not address.exists():
        message = f"there is no database {address}; name the --data or --records of the server"
        raise StartError("CONFIG_INVALID", message)
    with _locked(options, address):
        open_database(address, Use.MIGRATE).close()
    return [f"the database has version {HEAD}, which this release reads"]


def _locked(options: argparse.Namespace, address: Path | URL) -> ExitStack:
    """Lock the folders of a server until the end of the block."""
    with ExitStack() as undo:
        for folder in folders_of(options.data, address, options.artefacts):
            undo.callback(close, lock_folder(folder))
        return undo.pop_all()


def _file(address: Path | URL) -> Path:
    """Return the file of SQLite.

    Raises:
        StartError: CONFIG_INVALID, the records are in PostgreSQL.
    """
    if isinstance(address, URL):
        message = (
            "the records are in PostgreSQL: back them up with pg_dump, restore them with"
            " pg_restore, and copy the artefacts after the dump"
        )
        raise StartError("CONFIG_INVALID", message)
    return address


def _store(arguments: argparse.Namespace) -> Store:
    return open_store(arguments.artefacts, arguments.data)


COMMANDS: Mapping[str, tuple[Command, str]] = {
    "backup": (_backup, "Copy the data folder of a server, which may run, to a new folder."),
    "restore": (_restore, "Replace the content of a data folder by a backup; nothing is deleted."),
    "repair": (_repair, "Make a data folder usable again; damaged and unknown files are kept."),
    "migrate": (_migrate, "Bring the tables of an older database up to date; stop servers first."),
}
"""The sub-commands by name."""
