"""`python -m metanas prior`."""

import argparse
import sys
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch

from metanas.checkpoint import load_checkpoint
from metanas.cli.evaluate import whole_number
from metanas.errors import CheckpointError
from metanas.evaluation.fit_prior import Validation, fit_prior
from metanas.spec.card import CARD_FILE
from metanas.spec.prior import PRIOR_FILE, prior_json
from metanas_data.files import write_atomic
from metanas_data.suggest import existing


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    command = commands.add_parser(
        "prior",
        help="fit the prior by which a request without a checkpoint gets one",
        description="Fit a prior over the checkpoints in a folder on the val classes of data "
        "sets, or on all classes where there is no such split. Print accuracies without steps: of "
        "each checkpoint, of a prior that was fitted on other classes, of one that was fitted on "
        "other data sets, and of the better checkpoint.",
    )
    command.add_argument("folder", type=existing, help="folder of the checkpoints")
    command.add_argument("--data", type=existing, nargs="+", required=True, help="npz, or folders")
    command.add_argument("--out", type=Path, help=f"file (default: {PRIOR_FILE} in the folder)")
    command.add_argument(
        "--episodes",
        type=partial(whole_number, 1, inf),
        default=60,
        metavar="N",
        help="episodes of each half of a data set and number of shots (default: 60)",
    )
    command.set_defaults(run=_prior)


def _prior(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    folders = sorted(path.parent for path in arguments.folder.glob(f"*/{CARD_FILE}"))
    if not folders:
        message = (
            f"{arguments.folder} contains no checkpoint; give the folder above the checkpoints"
        )
        raise CheckpointError("CHECKPOINT_MISSING", message)
    checkpoints = {folder.name: load_checkpoint(folder) for folder in folders}
    prior, rows = fit_prior(checkpoints, arguments.data, arguments.episodes, _print_path)
    _print_rows(tuple(checkpoints), rows)
    write_atomic(arguments.out or arguments.folder / PRIOR_FILE, prior_json(prior).encode())
    return 0


def _print_path(path: Path) -> None:
    print(path, file=sys.stderr)


def _print_rows(names: tuple[str, ...], rows: list[Validation]) -> None:
    """Print accuracies in percent, as a table in Markdown."""
    titles = ("data", "shots", *names, "prior", "left out", "best")
    every = [[*row.checkpoints, row.prior, row.left_out, max(row.checkpoints)] for row in rows]
    every.append([sum(column) / len(rows) for column in zip(*every, strict=True)])
    settings = [*((row.data, str(row.shots)) for row in rows), ("mean", "")]
    lines = [titles, ("---",) * len(titles)]
    for setting, figures in zip(settings, every, strict=True):
        lines.append((*setting, *(f"{100 * figure:.1f}" for figure in figures)))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
