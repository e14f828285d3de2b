"""`metanas universal`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metanas import __version__
from metanas.adaptation.universal import UniversalSpace, network_of
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.evaluation.fit_universal import Figures, Validation, costs_of, fit_universal
from metanas.spec.card import check_options
from metanas.spec.universal import (
    DESCRIPTION,
    UNIVERSAL_FILE,
    Universal,
    UniversalConfig,
    universal_json,
)
from metanas.training.config_file import read_table
from metanas.util.dataclass_json import build
from metanas_data.files import write_atomic
from metanas_data.suggest import existing, existing_folder, whole_number


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    command = commands.add_parser(
        "universal",
        help="fit the prior of the universal search space",
        description="Fit the prior of the universal search space on the val classes of data sets, "
        "or on all classes where there is no such split. Print accuracies and millions of "
        "multiply-accumulates: of each branch alone, of the best shares for all tasks alike, of "
        "shares by the support set, of the shares of another data set's tasks, and of shares that "
        "were fitted on other data sets. All are measured on classes that the fit has not seen.",
    )
    command.add_argument("config", type=existing, help="branches and settings (TOML)")
    command.add_argument("--checkpoints", type=existing_folder, required=True, metavar="FOLDER")
    command.add_argument("--data", type=existing, nargs="+", required=True, help="npz, or folders")
    command.add_argument("--out", type=Path, help=f"file (default: {UNIVERSAL_FILE} in the folder)")
    command.add_argument(
        "--episodes",
        type=whole_number(1),
        default=60,
        metavar="N",
        help="episodes of each half of a data set and number of shots (default: 60)",
    )
    command.add_argument(
        "--alike", action="store_true", help="the same shares for all tasks: the control"
    )
    command.set_defaults(run=_universal)


def _universal(arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    config = build(UniversalConfig, read_table(arguments.config))
    space = _unfitted(config, arguments.checkpoints)
    fitted, rows = fit_universal(
        space,
        arguments.data,
        arguments.episodes,
        _print_path,
        conditional=not arguments.alike,
    )
    universal = replace(
        space.universal,
        weights=tuple(tuple(round(number, 4) for number in row) for row in fitted.weights.tolist()),
        bias=tuple(round(number, 4) for number in fitted.bias.tolist()),
        scale=round(fitted.scale, 4),
        provenance={
            "data": ", ".join(path.name for path in arguments.data),
            "software": f"metanas {__version__}, torch {torch.__version__}",
        },
    )
    _print_rows(tuple(config.branches), rows)
    path = arguments.out or arguments.checkpoints / UNIVERSAL_FILE
    write_atomic(path, universal_json(universal).encode())
    return 0


def _unfitted(config: UniversalConfig, folder: Path) -> UniversalSpace:
    """Load the checkpoints of the branches; all shares are equal."""
    names = dict.fromkeys(branch.checkpoint for branch in config.branches.values())
    checkpoints = {name: load_checkpoint(folder / name) for name in names}
    networks: dict[str, Checkpoint] = {
        name: network_of(checkpoints[branch.checkpoint], branch)
        for name, branch in config.branches.items()
    }
    for each in networks.values():
        check_options(config.defaults, each.card.input, each.card.space, "defaults")
    universal = Universal(
        config=config,
        checkpoints={name: each.card.digest for name, each in checkpoints.items()},
        costs={name: costs_of(each) for name, each in networks.items()},
        weights=((0.0,) * DESCRIPTION,) * len(networks),
        bias=(0.0,) * len(networks),
        scale=1.0,
    )
    return UniversalSpace(universal, checkpoints)


def _print_path(path: Path) -> None:
    print(path, file=sys.stderr)


def _print_rows(names: tuple[str, ...], rows: list[Validation]) -> None:
    """Print a table in Markdown: accuracies in percent / millions of multiply-accumulates."""
    titles = ("data", "shots", *names, "all alike", "by task", "another's", "left out")
    every = [[*row.branches, row.single, row.by_task, row.other, row.left_out] for row in rows]
    every.append([Figures.mean(column) for column in zip(*every, strict=True)])
    settings = [*((row.data, str(row.shots)) for row in rows), ("mean", "")]
    lines = [titles, ("---",) * len(titles)]
    for setting, figures in zip(settings, every, strict=True):
        cells = (f"{100 * each.accuracy:.1f} / {each.macs / 1e6:.0f}" for each in figures)
        lines.append((*setting, *cells))
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
