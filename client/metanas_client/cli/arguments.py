"""Arguments that several commands share, and how they become what the SDK takes."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metanas_client.channel import DEFAULT_ADDRESS
from metanas_client.resources import Option

WHOLE = {
    "steps": "steps on weights and architecture together, 0 to 500",
    "tuning_steps": "steps on the weights of the pruned network, 0 to 500",
    "batch_size": "support images a step, 1 to 1000",
    "patience": "steps without change after which a stage ends early; 0 takes every step",
    "shift_pixels": "the model also looks at four copies of each image, shifted diagonally by so "
    "many pixels of its input, 0 to 16: more accurate, five times the arithmetic; 0 looks once",
}
REAL = {
    "weight_lr": "learning rate of the weights, 0 to 1",
    "alpha_lr": "learning rate of the architecture, 0 to 1; 0 keeps the meta-learned one",
    "temperature_start": "temperature of the relaxation at the first step",
    "temperature_end": "temperature at the last step",
    "gradient_clip": "largest norm of the gradient",
}
SWITCHES = {
    "bilevel": "architecture on one half of the support set, weights on the other",
    "trunk_only": "the pretrained trunk and class prototypes alone: no cells, no steps",
}


def add_json(parser: argparse.ArgumentParser) -> None:
    """The switch that every command has."""
    parser.add_argument(
        "--json", action="store_true", help="print JSON (errors too, on the standard error)"
    )


def add_server(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Where the server is and how it is spoken to."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=environment.get("METANAS_SERVER", DEFAULT_ADDRESS),
        help=f"default: METANAS_SERVER or {DEFAULT_ADDRESS}",
    )
    group.add_argument(
        "--token",
        default=environment.get("METANAS_TOKEN"),
        help="bearer token; better kept in METANAS_TOKEN, as others see the command line",
    )
    group.add_argument("--tls", action="store_true", help="use TLS; trust the system's authorities")
    group.add_argument(
        "--ca", type=Path, metavar="PEM", help="use TLS; trust the authority in this file"
    )
    group.add_argument("--cert", type=Path, metavar="PEM", help="own certificate, for mutual TLS")
    group.add_argument("--key", type=Path, metavar="PEM", help="key of the own certificate")


def add_options(parser: argparse.ArgumentParser) -> None:
    """What an adaptation starts from and how it goes."""
    group = parser.add_argument_group("adaptation (default: what the checkpoint says)")
    group.add_argument(
        "--checkpoint", default="", help="may be left out when the server has exactly one"
    )
    for name, text in WHOLE.items():
        group.add_argument(_flag(name), type=int, metavar="N", help=text)
    for name, text in REAL.items():
        group.add_argument(_flag(name), type=float, metavar="X", help=text)
    for name, text in SWITCHES.items():
        group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=text)


def options(arguments: argparse.Namespace) -> dict[str, Option]:
    """The hyper-parameters that were given."""
    given = vars(arguments)
    names = (*WHOLE, *REAL, *SWITCHES)
    return {name: given[name] for name in names if given[name] is not None}


def connection(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Client` and `AsyncClient`."""
    return {
        "address": arguments.server,
        "token": arguments.token,
        "tls": arguments.tls,
        "root_certificate": arguments.ca,
        "certificate": arguments.cert,
        "private_key": arguments.key,
    }


def environment() -> Mapping[str, str]:
    """The environment; read here and nowhere else."""
    return os.environ


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
