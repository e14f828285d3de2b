"""The command `metanas-server tokens`: create, list and revoke tokens."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from metanas_server.config import CommandLine, add_flags, settle
from metanas_server.errors import StartError

OPTIONS = ("token_file",)
COLUMNS = "{:<8}  {:<5}  {:<25}  {}"


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the command. A running server follows the file without a restart.

    Raises:
        SystemExit: `--help`.
        StartError: CONFIG_INVALID, TOKEN_INVALID.
    """
    options = _parser().parse_args(arguments)
    path = settle(vars(options), environment, OPTIONS).token_file
    if path is None:
        message = "give the file of the tokens: --token-file FILE, or METANAS_TOKEN_FILE"
        raise StartError("CONFIG_INVALID", message)
    options.do(path, options)


def _create(path: Path, options: argparse.Namespace) -> None:
    if options.certificate is not None:
        tokens.create_certificate(path, options.name, Role(options.role), options.certificate)
        return
    secret = tokens.create(path, options.name, Role(options.role))
    print(secret)
    print("Keep this token: the file has its digest only.", file=sys.stderr)


def _list(path: Path, options: argparse.Namespace) -> None:
    rows = [
        (each.id, each.role, each.created, " ".join(filter(None, (each.name, each.certificate))))
        for each in tokens.read(path)
    ]
    for row in (("id", "role", "created", "name"), *rows):
        print(COLUMNS.format(*row))


def _revoke(path: Path, options: argparse.Namespace) -> None:
    print(f"revoked: {tokens.revoke(path, options.name, options.id)}")


def _parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="metanas-server tokens", description="Create, list and revoke tokens of callers."
    )
    common = CommandLine(add_help=False)
    add_flags(common, ("config", *OPTIONS))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser("create", parents=[common], help="print a new token")
    create.add_argument("name", metavar="NAME", help="caller; it owns what its tokens make")
    text = "read: show, download, query; use: also create, cancel, delete; admin: see all callers"
    create.add_argument("--role", choices=list(Role), default=Role.USE, help=text)
    text = "let callers with this name in their client certificate in, and print no token"
    create.add_argument("--certificate", metavar="NAME", help=text)
    create.set_defaults(do=_create)
    listing = commands.add_parser("list", parents=[common], help="list all tokens")
    listing.set_defaults(do=_list)
    revoke = commands.add_parser("revoke", parents=[common], help="remove tokens")
    revoke.add_argument("name", metavar="NAME", help="caller, all of whose tokens are removed")
    revoke.add_argument("id", metavar="ID", nargs="?", help="remove the token with this id only")
    revoke.set_defaults(do=_revoke)
    return parser
