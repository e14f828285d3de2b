"""`python -m metanas`: meta-training and evaluation in process, from the command line."""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from metanas import data, schema
from metanas.checkpoint import load_checkpoint, write_atomic
from metanas.config import parse_overrides, read_config
from metanas.errors import MetanasError
from metanas.evaluate import EpisodeShape, evaluate, mean_of
from metanas.runs import run
from metanas.terminal import watching
from metanas.watch import add_commands
from metanas.wishes import listening

COLUMNS = (
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[seen]}"),
)


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
        print("interrupted; go on with --resume", file=sys.stderr)
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
        "SIGTERM and Ctrl-C end it with a snapshot after the iteration; SIGUSR1 takes one.",
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
    _add_evaluate(commands.add_parser("evaluate", help="evaluate a checkpoint in process"))
    add_commands(commands)
    return parser


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Adapt to episodes of a data set in process and classify their queries with the exported "
        "files; also says what the soft supernet would have answered."
    )
    command.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    command.add_argument("--data", type=Path, required=True, help="npz, or folder of classes")
    command.add_argument("--split", default="val", help="part of the data set (default: val)")
    for name, default, what in (
        ("ways", 5, "classes of an episode"),
        ("shots", 1, "support images of a class"),
        ("queries", 5, "queries of a class"),
        ("episodes", 600, "number of episodes"),
        ("seed", 0, "seed of the episodes"),
        ("together", 1, "episodes that are adapted in one stack"),
    ):
        command.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: {default})"
        )
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    command.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    command.add_argument("--out", type=Path, help="write every episode's figures there, as JSON")
    command.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="override an option"
    )
    command.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint, device=options.device)
    spec = checkpoint.card.input
    # images of a folder may differ in size and are made equal; others stay as a client sends them
    size = spec.size if options.data.is_dir() else None
    classes = data.load(options.data, options.split, size=size, channels=spec.channels)
    overrides = parse_overrides(options.set)
    shape = EpisodeShape(ways=options.ways, shots=options.shots, queries=options.queries)
    with Progress(*COLUMNS) as bar:
        task = bar.add_task("evaluate", total=options.episodes, seen="")
        outcomes = evaluate(
            checkpoint,
            classes,
            shape,
            episodes=options.episodes,
            seed=options.seed,
            options=checkpoint.card.defaults.replace(overrides),
            together=max(1, options.together),
            on_episode=lambda index, outcome: bar.update(task, completed=index + 1),
        )
    for name, values in (
        ("exported", [outcome.accuracy for outcome in outcomes]),
        ("soft", [outcome.soft for outcome in outcomes]),
    ):
        mean = mean_of(values)
        print(f"{name:9} {100 * mean.mean:.2f} ± {100 * mean.interval:.2f} %")
    if options.out:
        text = json.dumps([schema.dump(outcome) for outcome in outcomes])
        write_atomic(options.out, text.encode())
    return 0


def _train(options: argparse.Namespace) -> int:
    config = read_config(options.config, options.set)
    folder = options.out or Path("runs") / config.name
    with watching(config.train.iterations) as shown, listening() as wishes:
        best = run(
            config,
            folder,
            resume=options.resume,
            on_progress=shown.iteration,
            wishes=wishes,
            on_images=shown.images,
        )
    if wishes.stop is not None:
        print(f"stopped by {wishes.stop.name}; go on with --resume --out {folder}", file=sys.stderr)
        return 128 + wishes.stop
    if best.iteration:
        where = folder / "checkpoint"
        print(f"best: {best.accuracy:.1%} pruned, at iteration {best.iteration}; in {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
