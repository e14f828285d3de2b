"""Arguments that several commands share, their checks, and their translation for the SDK."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metanas_client.channel import DEFAULT_ADDRESS
from metanas_client.convert import OPTION_TYPES
from metanas_client.errors import NotWritable
from metanas_client.resources import LARGEST_SIDE, Option, Variant
from metanas_data.suggest import existing_folder
from metanas_protos.v1.option_help import OPTION_HELP

METAVARS: Mapping[type[Option], str] = {int: "N", float: "X", str: "NAME"}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the switch that every command has."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON (errors too, on the standard error)"
    )


def add_server(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Add the address of the server and the credentials."""
    parser.set_defaults(
        default_server=environment.get("METANAS_SERVER", DEFAULT_ADDRESS),
        default_token=environment.get("METANAS_TOKEN") or None,
    )
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server", metavar="HOST:PORT", help=f"default: METANAS_SERVER or {DEFAULT_ADDRESS}"
    )
    group.add_argument(
        "--token",
        help="bearer token; prefer METANAS_TOKEN, since other users can see command lines",
    )
    group.add_argument("--tls", action="store_true", help="use TLS; trust the system's authorities")
    group.add_argument(
        "--ca", type=Path, metavar="PEM", help="use TLS; trust the authority in this file"
    )
    group.add_argument("--cert", type=Path, metavar="PEM", help="client certificate (mutual TLS)")
    group.add_argument("--key", type=Path, metavar="PEM", help="private key of --cert")


def add_local(parser: argparse.ArgumentParser) -> None:
    """Add the switch that replaces the server by this process."""
    group = parser.add_argument_group(
        "without a server", 'Needs the core: pip install "metanas-client[local]".'
    )
    group.add_argument(
        "--local",
        action="store_true",
        help="adapt in this process; the same bytes as by a server with as many threads",
    )
    group.add_argument(
        "--checkpoints",
        type=existing_folder,
        metavar="FOLDER",
        help="folder of the checkpoints for --local (default: those of metanas-checkpoints)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint and the options of an adaptation."""
    group = parser.add_argument_group("adaptation (defaults come from the checkpoint)")
    group.add_argument(
        "--checkpoint",
        default="",
        help="name; without it, the only checkpoint of the server, or `universal`, in which the "
        "images choose the networks",
    )
    for name, kind in OPTION_TYPES.items():
        text = OPTION_HELP[name].rstrip(".").replace("%", "%%")
        text = text[0].lower() + text[1:]
        if kind is bool:
            group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(_flag(name), type=kind, metavar=METAVARS[kind], help=text)


def add_form(parser: argparse.ArgumentParser) -> None:
    """Add the input and the opset of the file."""
    parser.add_argument(
        "--input",
        type=_fixed,
        metavar="fixed:HxW",
        help=f"a graph without dynamic shapes for one image of H rows and W columns, 1 to "
        f"{LARGEST_SIDE}, as some runtimes need it (images of any size)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=range(13, 22),
        default=0,
        metavar="N",
        help="version of the standard operators of ONNX, 13 to 21 (17)",
    )


def form(arguments: argparse.Namespace, precision: str = "") -> Variant:
    """Return the variant of a model that the command line asks for."""
    height, width = arguments.input or (0, 0)
    return Variant(precision=precision, height=height, width=width, opset=arguments.opset)


def options(arguments: argparse.Namespace) -> dict[str, Option]:
    """Return the options of the adaptation that the command line sets."""
    values = vars(arguments)
    return {name: values[name] for name in OPTION_TYPES if values[name] is not None}


def connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `Client` and `AsyncClient`."""
    return {
        "address": arguments.default_server if arguments.server is None else arguments.server,
        "token": arguments.default_token if arguments.token is None else arguments.token,
        "tls": arguments.tls,
        "root_certificate": arguments.ca,
        "certificate": arguments.cert,
        "private_key": arguments.key,
    }


def environment() -> Mapping[str, str]:
    """Return the environment. No other module reads it."""
    return os.environ


def _fixed(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"fixed:([1-9][0-9]{0,8})[x×]([1-9][0-9]{0,8})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form fixed:HxW, as fixed:224x224")
    height, width = int(found[1]), int(found[2])
    if max(height, width) > LARGEST_SIDE:
        message = f"{text!r} is too large; H and W are at most {LARGEST_SIDE}"
        raise argparse.ArgumentTypeError(message)
    return height, width


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the switch to replace existing files."""
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the file of a model, and the switch to replace it."""
    parser.add_argument(
        "--out", type=Path, default=Path("model.onnx"), help="file to write (model.onnx)"
    )
    add_force(parser)


def check_output(path: Path, *, force: bool) -> None:
    """Check that a file can be written.

    Raises:
        NotWritable: NOT_WRITABLE, or FILE_EXISTS without `force`.
    """
    if path.is_dir():
        raise _not_writable(path, "it is a folder; name a file")
    if not path.parent.is_dir():
        raise _not_writable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _not_writable(path, f"the folder {path.parent} is read-only for this user")
    if path.exists() and not path.is_file():
        raise _not_writable(path, "it is no regular file; name a file")
    if path.exists() and not force:
        message = f"{path} exists already: name another file, or add --force to replace it"
        raise NotWritable("FILE_EXISTS", message)


def _not_writable(path: Path, why: str) -> NotWritable:
    return NotWritable("NOT_WRITABLE", f"cannot write {path}: {why}")
