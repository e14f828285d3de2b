"""`metanas tensorboard`."""

import argparse
import time
from pathlib import Path
from typing import Any

from metanas.errors import CheckpointError
from metanas.runs.log import read_run
from metanas_data.suggest import existing_folder

PAUSE = 5.0
"""Seconds between two reads of the log of a run that is followed."""


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    board = commands.add_parser(
        "tensorboard",
        help="export the log of a run for TensorBoard",
        description="Write the log of a run as events of TensorBoard. View them with "
        "`tensorboard --logdir RUN`. Needs the extra metanas[watch].",
    )
    board.add_argument("folder", type=existing_folder, metavar="RUN", help="folder of the run")
    board.add_argument(
        "--out", type=Path, help="folder of the events (default: tensorboard in the run's)"
    )
    board.add_argument("--follow", action="store_true", help="go on until the run is finished")
    board.set_defaults(run=_tensorboard)


def _tensorboard(options: argparse.Namespace) -> int:
    try:
        from metanas.runs.tensorboard import Events
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorboardX":
            raise
        message = 'events need the extra "watch": pip install "metanas[watch]"'
        raise CheckpointError("EXTRA_MISSING", message) from error
    run = read_run(options.folder)
    events = Events(options.out or options.folder / "tensorboard")
    events.write(run.records)
    while options.follow and not run.finished:
        time.sleep(PAUSE)
        run = read_run(options.folder)
        events.write(run.records)
    events.close()
    print(f"{events.points} points in {events.folder}")
    return 0
