"""`python -m metanas`: meta-training from the command line."""

import argparse
import sys
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from metanas.config import RunConfig, read_config
from metanas.errors import MetanasError
from metanas.runs import run
from metanas.train import Progress as Seen


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 is success, 2 an input that cannot be used, 130 an interruption."""
    options = _parser().parse_args(arguments)
    try:
        config = read_config(options.config, options.set)
        _train(config, options.out or Path("runs") / config.name, options.resume)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m metanas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="meta-train a supernet and write a checkpoint",
        description="Meta-train a supernet. The run's folder holds log.jsonl, a snapshot to resume "
        "from, and checkpoint/: the best checkpoint so far by validation of the pruned network.",
    )
    train.add_argument("config", type=Path, help="TOML configuration; see configs/")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on from the run's last snapshot")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, in TOML: --set train.iterations=100",
    )
    return parser


def _train(config: RunConfig, folder: Path, resume: bool) -> None:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[seen]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("train", total=config.train.iterations, seen="")

        def on_progress(seen: Seen) -> None:
            bar.update(task, completed=seen.iteration, seen=f"loss {seen.loss:.3f}")

        best = run(config, folder, resume=resume, on_progress=on_progress)
    where = folder / "checkpoint"
    print(f"best: {best.accuracy:.1%} pruned, at iteration {best.iteration}; in {where}")


if __name__ == "__main__":
    sys.exit(main())
