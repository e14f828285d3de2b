"""`python -m metanas`: meta-training, and evaluation in process, from the command line."""

import argparse
import sys
from pathlib import Path

from metanas import evaluating, watch
from metanas.config import read_config
from metanas.errors import MetanasError
from metanas.runs import run
from metanas.terminal import watching
from metanas.wishes import listening


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 is success, 2 an input that cannot be used.

    An interruption is 130, or 128 and the number of the signal that asked for an end.
    """
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "train goes on with --resume, evaluate --out with the same command"
        print(f"interrupted; {again}", file=sys.stderr)
        return 130
    return done


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m metanas", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train",
        help="meta-train a supernet and write a checkpoint",
        description="Meta-train a supernet. The run's folder holds log.jsonl, a snapshot to resume "
        "from, and checkpoint/: the best checkpoint so far by validation of the pruned network. "
        "SIGTERM and Ctrl-C end it with a snapshot after the iteration, and at once while it still "
        "reads the data; SIGUSR1 takes a snapshot.",
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
    train.set_defaults(run=_train)
    evaluating.add_commands(commands)
    watch.add_commands(commands)
    return parser


def _train(options: argparse.Namespace) -> int:
    config = read_config(options.config, options.set)
    folder = options.out or Path("runs") / config.name
    with watching(config.train.iterations) as shown, listening() as wishes:
        try:
            best = run(
                config,
                folder,
                resume=options.resume,
                on_progress=shown.iteration,
                wishes=wishes,
                on_images=shown.images,
            )
        except KeyboardInterrupt:
            if wishes.begun:
                raise
    if wishes.stop is not None:
        again = f"go on with --resume --out {folder}"
        if not wishes.begun:
            again = "no iteration had begun, so nothing is lost: the same command starts again"
        print(f"stopped by {wishes.stop.name}; {again}", file=sys.stderr)
        return 128 + wishes.stop
    if best.iteration:
        where = folder / "checkpoint"
        print(f"best: {best.accuracy:.1%} pruned, at iteration {best.iteration}; in {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
