"""`metanas train` and `keys`."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from metanas.errors import ClusterError, InvalidInput
from metanas.nn.devices import device_of
from metanas.runs.progress import TrainingDisplay
from metanas.runs.run import run
from metanas.runs.signals import handle_signals
from metanas.training.config import RunConfig
from metanas.training.config_file import page, read_config
from metanas.training.extensions import Extensions, Learner
from metanas_data.suggest import existing


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    train = commands.add_parser(
        "train",
        help="meta-train a supernet and write a checkpoint",
        description="Meta-train a supernet. The folder of the run holds log.jsonl, a snapshot to "
        "resume from, and checkpoint/: the best checkpoint so far by validation of the pruned "
        "network. SIGTERM and Ctrl-C end the run with a snapshot after the current iteration, and "
        "at once while it reads the data. SIGUSR1 takes a snapshot.",
    )
    train.add_argument("config", type=existing, help="TOML configuration; see configs/")
    train.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="continue from the last snapshot")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, in TOML: --set train.iterations=100",
    )
    _add_workers(train)
    train.set_defaults(run=_train)
    keys = commands.add_parser("keys", help="print all keys of a configuration, in Markdown")
    keys.set_defaults(run=_keys)


def _add_workers(train: argparse.ArgumentParser) -> None:
    group = train.add_argument_group(
        "several processes, GPUs and hosts",
        "Spread the tasks of a meta-iteration over the workers of a Ray cluster. The run starts "
        "its own cluster, unless --address names one. Needs the extra metanas[ray].",
    )
    group.add_argument("--workers", type=int, metavar="N", help="at most train.tasks")
    group.add_argument(
        "--address", metavar="HOST:PORT", help="join the cluster of this `ray start --head`"
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help="with --workers: cuda (a GPU for each worker), cpu, or auto (default: cuda if there "
        "are enough GPUs); without: cpu (default), cuda, cuda:1 ...",
    )
    group.add_argument(
        "--replacements",
        type=int,
        metavar="N",
        help="give up if more workers die in one iteration (default: 3)",
    )
    group.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="time limit for the cluster to answer and its workers to start (default: 120)",
    )


@contextmanager
def _learner(options: argparse.Namespace, config: RunConfig) -> Iterator[Learner | None]:
    """Yield the learner of a pool of workers, or of this process."""
    names = ("address", "device", "replacements", "patience")
    settings = {name: vars(options)[name] for name in names if vars(options)[name] is not None}
    if options.workers is None:
        device = settings.pop("device", "cpu")
        if settings:
            message = "applies to workers; add --workers N"
            raise InvalidInput.single(f"--{next(iter(settings))}", "OPTION_OUT_OF_RANGE", message)
        yield partial(Extensions().batch, device=str(device_of(device)))
        return
    try:
        from metanas.training.ray_pool import Workers, cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        message = 'workers need the extra "ray": pip install "metanas[ray]"'
        raise ClusterError("EXTRA_MISSING", message) from error
    with cluster(Workers(workers=options.workers, **settings), config.train.tasks) as learner:
        yield learner


def _keys(_options: argparse.Namespace) -> int:
    print(page(), end="")
    return 0


def _train(options: argparse.Namespace) -> int:
    config = read_config(options.config, options.set)
    folder = options.out or Path("runs") / config.name
    with _learner(options, config) as learner, handle_signals() as requests:
        try:
            closed = partial(requests.end, signal.SIGPIPE)
            display = TrainingDisplay(config.train.iterations, closed)
            with display.bar:
                best = run(
                    config,
                    folder,
                    resume=options.resume,
                    on_progress=display.iteration,
                    requests=requests,
                    learner=learner,
                    on_images=display.images,
                )
        except KeyboardInterrupt:
            if requests.started:
                raise
    if requests.stop is not None:
        again = f"continue with --resume --out {folder}"
        if options.set:
            again += " and the same --set"
        if not requests.started:
            again = "no iteration had begun, so nothing is lost: the same command starts again"
        print(f"stopped by {requests.stop.name}; {again}", file=sys.stderr)
        return 128 + requests.stop
    if best.iteration:
        where = folder / "checkpoint"
        print(f"best: {best.accuracy:.1%} pruned, at iteration {best.iteration}; in {where}")
    return 0
