"""The commands that look at a run: `report` and `tensorboard`."""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError, InvalidInput, MetanasError
from metanas.runs.html_report import page
from metanas.runs.log import CHECKPOINT, RunRecord, read_run
from metanas.spec.genotype import Genotype
from metanas.util.files import write_atomic

PAUSE = 5.0
"""Seconds between two looks at a run that is followed."""
PAGES = (".html", ".htm")
"""Ends of a page's name."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Give a command line the commands of this module."""
    report = commands.add_parser(
        "report",
        help="make one HTML page of a run",
        description="Make one self-contained page of a run: curves, cells, configuration, and how "
        "to go on. The run may be going on, finished or killed; nothing of it is changed.",
    )
    report.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the folder)")
    report.set_defaults(run=_report)
    board = commands.add_parser(
        "tensorboard",
        help="turn a run's log into TensorBoard's events",
        description="Write what a run's log says as TensorBoard's events; then look at them with "
        "`tensorboard --logdir RUN`. Needs the extra metanas[watch].",
    )
    board.add_argument("folder", type=Path, metavar="RUN", help="folder of the run")
    board.add_argument(
        "--out", type=Path, help="folder of the events (default: tensorboard in the run's)"
    )
    board.add_argument("--follow", action="store_true", help="go on until the run is finished")
    board.set_defaults(run=_tensorboard)


def cells_of(run: RunRecord) -> list[tuple[int, Genotype]]:
    """The architectures that are known, each with its iteration, in order.

    From the log where it has them; else that of the best checkpoint, if it can be read.
    """
    logged = [
        (int(record["iteration"]), _genotype(record["genotype"]))
        for record in run.records
        if record.get("genotype")
    ]
    found = [(iteration, genotype) for iteration, genotype in logged if genotype is not None]
    if found:
        return found
    try:
        checkpoint = load_checkpoint(run.folder / CHECKPOINT)
    except MetanasError:
        return []
    said = checkpoint.card.provenance.get("iterations", "")
    best = run.best()
    return [
        (int(said) if said.isdigit() else best[0] if best else 0, checkpoint.meta_genotype),
    ]


def _genotype(raw: object) -> Genotype | None:
    try:
        return Genotype.from_json(raw if isinstance(raw, str) else json.dumps(raw))
    except MetanasError:
        return None


def _report(options: argparse.Namespace) -> int:
    out: Path = options.out or options.folder / "report.html"
    if out.suffix.lower() not in PAGES:
        message = f"{out} would be a page of HTML: let its name end in .html; to have it as PDF, "
        message += "open it in a browser and print it to a file"
        raise InvalidInput.single("--out", "OPTION_OUT_OF_RANGE", message)
    run = read_run(options.folder)
    text = page(run, cells_of(run), datetime.now(UTC))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text.encode())
    except OSError as error:
        message = f"{out} cannot be written ({error}); choose another place with --out"
        raise CheckpointError("WRITE_FAILED", message) from error
    print(out)
    return 0


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
