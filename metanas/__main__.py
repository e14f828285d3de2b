"""`python -m metanas`: meta-training, and evaluation in process, from the command line."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from metanas.cli import evaluate, runs
from metanas.errors import ClusterError, InvalidInput, MetanasError
from metanas.nn.devices import device_of
from metanas.runs.progress import watching
from metanas.runs.run import run
from metanas.runs.screen import Screen, mute
from metanas.runs.signals import listening
from metanas.training.config import RunConfig
from metanas.training.config_file import read_config
from metanas.training.extensions import Extensions, Learner
from metanas.training.keys import page

CLOSED: signal.Signals = getattr(signal, "SIGPIPE", signal.SIGTERM)
"""What ends programs whose output nobody reads any more; Windows has no name for it."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 is success, 2 an input that cannot be used.

    An interruption is 130, or 128 and the number of the signal that asked for an end.
    """
    options = _parser().parse_args(arguments)
    try:
        done: int = options.run(options)
        sys.stdout.flush()
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    except BrokenPipeError:  # nobody reads what is printed: a user of `| head`, who knows
        mute()
        return 128 + CLOSED
    except KeyboardInterrupt:
        again = "train goes on with --resume and the same --set, evaluate --out as it is"
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
    _add_workers(train)
    train.set_defaults(run=_train)
    keys = commands.add_parser(
        "keys", help="every key of a configuration, its default and meaning, in Markdown"
    )
    keys.set_defaults(run=_keys)
    evaluate.add_commands(commands)
    runs.add_commands(commands)
    return parser


def _add_workers(train: argparse.ArgumentParser) -> None:
    several = train.add_argument_group(
        "several processes, GPUs and hosts",
        "The tasks of a meta-iteration over the workers of a Ray cluster, which is started for the "
        "run unless there is an --address. Needs the extra metanas[ray].",
    )
    several.add_argument("--workers", type=int, metavar="N", help="at most train.tasks")
    several.add_argument(
        "--address", metavar="HOST:PORT", help="join the cluster of this `ray start --head`"
    )
    several.add_argument(
        "--device",
        metavar="NAME",
        help="cuda: a GPU for each worker; cpu: none; auto (default): cuda if there are so many; "
        "without --workers: cpu (default), cuda, cuda:1 ...",
    )
    several.add_argument(
        "--replacements",
        type=int,
        metavar="N",
        help="give up if workers die more often in one iteration (default: 3)",
    )
    several.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="until the cluster has to answer, and its workers to be ready (default: 120)",
    )


@contextmanager
def _learner(options: argparse.Namespace, config: RunConfig) -> Iterator[Learner | None]:
    """Make the pool that runs the tasks of an iteration; None is this process."""
    names = ("address", "device", "replacements", "patience")
    given = {name: vars(options)[name] for name in names if vars(options)[name] is not None}
    if options.workers is None:
        device = given.pop("device", "cpu")
        if given:
            message = "is about workers: say with --workers N how many"
            raise InvalidInput.single(f"--{next(iter(given))}", "OPTION_OUT_OF_RANGE", message)
        yield partial(Extensions().batch, device=str(device_of(device)))
        return
    try:
        from metanas.training.ray_pool import Workers, cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        message = 'workers need the extra "ray": pip install "metanas[ray]"'
        raise ClusterError("EXTRA_MISSING", message) from error
    with cluster(Workers(count=options.workers, **given), config.train.tasks) as learner:
        yield learner


def _keys(_options: argparse.Namespace) -> int:
    print(page(), end="")
    return 0


def _train(options: argparse.Namespace) -> int:
    config = read_config(options.config, options.set)
    folder = options.out or Path("runs") / config.name
    with _learner(options, config) as learner, listening() as wishes:
        try:
            screen = Screen(lambda: wishes.ask(CLOSED))
            with watching(config.train.iterations, screen) as shown:
                best = run(
                    config,
                    folder,
                    resume=options.resume,
                    on_progress=shown.iteration,
                    wishes=wishes,
                    learner=learner,
                    on_images=shown.images,
                )
        except KeyboardInterrupt:
            if wishes.begun:
                raise
    if wishes.stop is not None:
        again = f"go on with --resume --out {folder}"
        if options.set:
            again += " and the same --set"
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
