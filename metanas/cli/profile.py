"""`metanas profile`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metanas.adaptation.metrics import milliseconds_of
from metanas.adaptation.universal import load_universal
from metanas.spec.universal import UNIVERSAL_FILE, universal_json
from metanas_data.files import write_atomic
from metanas_data.suggest import existing_folder, whole_number


def add_commands(commands: Any) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "profile",
        help="measure the milliseconds of each branch of the universal search space",
        description="Export the network of each branch, and measure it in ONNX Runtime on this "
        "machine: median milliseconds for one image of its input size, on one thread. Print the "
        f"table and write it into {UNIVERSAL_FILE}. The option max_milliseconds needs it.",
    )
    command.add_argument("folder", type=existing_folder, help=f"folder with {UNIVERSAL_FILE}")
    command.add_argument("--out", type=Path, help=f"file (default: {UNIVERSAL_FILE} in the folder)")
    command.add_argument(
        "--runs",
        type=whole_number(1),
        default=50,
        metavar="N",
        help="measurements of each branch (default: 50)",
    )
    command.set_defaults(run=_profile)


def _profile(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    space = load_universal(arguments.folder)
    table = {
        name: max(0.001, round(milliseconds_of(each, arguments.runs), 3))
        for name, each in space.branches.items()
    }
    rows = [f"| {name} | {value:g} |" for name, value in table.items()]
    print("\n".join(["| branch | milliseconds |", "|---|---|", *rows]))
    path = arguments.out or arguments.folder / UNIVERSAL_FILE
    write_atomic(path, universal_json(replace(space.universal, milliseconds=table)).encode())
    return 0
