"""`python -m metanas evaluate`, `compare` and `scores`."""

import argparse
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from metanas.checkpoint import load_checkpoint
from metanas.errors import InvalidInput, Violation
from metanas.evaluation.compare import LEAST, compare
from metanas.evaluation.resume import Plan, run_plan
from metanas.evaluation.scores import add_scores
from metanas.nn.devices import device_of
from metanas.runs.progress import bar
from metanas.training.config import MOST_THREADS
from metanas.training.config_file import parse_overrides
from metanas.util.formatting import counted
from metanas_data.datasets.dataset import read_dataset, with_rotations
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.errors import EvaluationError
from metanas_data.evaluations import column, read_evaluation
from metanas_data.intervals import mean_of
from metanas_data.journal import Record, journal_path
from metanas_data.suggest import existing

SHOWN = {
    "accuracy": "exported",
    "accuracy_pruned": "pruned, not tuned",
    "accuracy_soft": "soft supernet",
    "accuracy_transductive": "transductive",
}
"""Accuracy in a record -> what it is called."""
COUNTS = (
    ("ways", 5, 2, inf, "classes of an episode"),
    ("shots", 1, 1, inf, "support images of a class"),
    ("queries", 5, 1, inf, "queries of a class"),
    ("episodes", 600, 1, inf, "number of episodes"),
    ("seed", 0, 0, inf, "seed of the episodes"),
    ("together", 1, 1, inf, "episodes that are adapted in one stack"),
    ("threads", 1, 1, MOST_THREADS, "threads of torch"),
)
"""Option, default, least, most, what it is."""


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    _add_evaluate(commands.add_parser("evaluate", help="evaluate a checkpoint in process"))
    command = commands.add_parser(
        "compare",
        help="compare two evaluations episode by episode",
        description="Mean difference of two evaluations on the same episodes, with its 95 % "
        "interval. Reads what `evaluate --out` of this program and of the client write.",
    )
    command.add_argument("one", type=existing, metavar="A.json")
    command.add_argument("other", type=existing, metavar="B.json")
    command.set_defaults(run=_compare)
    command = commands.add_parser(
        "scores",
        help="write evaluations' accuracies into a checkpoint's card",
        description="Write the accuracies of evaluations of a checkpoint, at its defaults, into "
        "its card, from which a server tells them. Reads what `evaluate --out` of this program and "
        "of the client write. The checkpoint's digest stays as it is.",
    )
    command.add_argument("checkpoint", type=existing, help="folder of the checkpoint")
    command.add_argument("evaluations", type=existing, nargs="+", metavar="A.json")
    command.set_defaults(run=_scores)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Adapt to episodes of a data set in process and classify their queries with the exported "
        "files; also says what the pruned network before tuning and the soft supernet would have "
        "answered. With --out every episode is kept in a journal, and the same command goes on."
    )
    command.add_argument("checkpoint", type=existing, help="folder of the checkpoint")
    command.add_argument("--data", type=existing, required=True, help="npz, or folder of classes")
    command.add_argument("--split", help="part of the data set (val if there is one, else all)")
    command.add_argument(
        "--rotations",
        action="store_true",
        help="every class turned by 90, 180 and 270 degrees is three more classes, as published "
        "Omniglot tables have it",
    )
    for name, default, _, _, what in COUNTS:
        command.add_argument(
            f"--{name}", type=int, default=default, help=f"{what} (default: {default})"
        )
    command.add_argument(
        "--transductive",
        action="store_true",
        help="also with statistics of support and queries together, as published tables commonly "
        "have it; no query on its own is answered like that",
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    command.add_argument("--out", type=Path, help="write every episode's figures there, as JSON")
    command.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="override an option"
    )
    command.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    torch.set_num_threads(arguments.threads)
    device = device_of(arguments.device)
    checkpoint = load_checkpoint(arguments.checkpoint, device=device)
    dataset = read_dataset(arguments.data, arguments.split)
    if arguments.rotations:
        dataset = with_rotations(dataset)
    shape = EpisodeShape(ways=arguments.ways, shots=arguments.shots, queries=arguments.queries)
    options = checkpoint.card.defaults.replace(parse_overrides(arguments.set))
    plan = Plan(
        checkpoint=checkpoint,
        sampler=Sampler(dataset, shape, arguments.seed),
        episodes=arguments.episodes,
        options=options,
        together=arguments.together,
        transductive=arguments.transductive,
    )
    with TemporaryDirectory() as folder, bar() as shown:
        task = shown.add_task("evaluate", total=plan.episodes, seen="")
        out = arguments.out or Path(folder) / "evaluation.json"
        records = run_plan(plan, out, on_episode=lambda done: shown.update(task, completed=done))
    _show(plan, records)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    bad = [
        Violation(
            f"--{name}",
            "OPTION_OUT_OF_RANGE",
            f"must be at least {least}" if most == inf else f"must be {least} to {most}",
        )
        for name, _, least, most, _ in COUNTS
        if not least <= getattr(arguments, name) <= most
    ]
    if bad:
        raise InvalidInput(bad)
    if arguments.out and arguments.out.is_dir():
        message = f"{arguments.out} is a folder; name a file that ends in .json"
        raise EvaluationError("EVALUATION_UNWRITABLE", message)
    if arguments.out and arguments.out.exists() and not journal_path(arguments.out).exists():
        message = f"{arguments.out} exists, without a journal to continue; name another --out"
        raise EvaluationError("EVALUATION_UNWRITABLE", message)


def _show(plan: Plan, records: list[Record]) -> None:
    shape, dataset = plan.sampler.shape, plan.sampler.dataset
    print(
        f"{dataset.name}, {f'split {dataset.split}' if dataset.split else 'all classes'}: "
        f"{counted(len(records), 'episode', 'episodes')}, {shape.ways}-way {shape.shots}-shot, "
        f"{counted(shape.queries, 'query', 'queries')} a class"
    )
    for name, title in SHOWN.items():
        if values := column(records, name):
            mean = mean_of(values)
            wide = f" ± {100 * mean.interval:.2f}" if len(values) >= LEAST else ""
            print(f"{title:18} {100 * mean.mean:.2f}{wide} %")


def _compare(arguments: argparse.Namespace) -> int:
    one, other = read_evaluation(arguments.one), read_evaluation(arguments.other)
    found = compare(one, other)
    mean, interval = 100 * found.difference.mean, 100 * found.difference.interval
    print(f"difference {mean:+.2f} ± {interval:.2f} points, {found.episodes} episodes")
    longer = max(len(one.episodes), len(other.episodes))
    if longer > found.episodes:
        print(f"only the first {found.episodes} of {longer} are in both; the others do not count")
    print(f"won {found.won}, lost {found.lost}, tied {found.tied}")
    return 0


def _scores(arguments: argparse.Namespace) -> int:
    for setting, figures in add_scores(arguments.checkpoint, arguments.evaluations).items():
        about = f"{figures['accuracy']:.2f} ± {figures['interval95']:.2f} %"
        print(f"{setting}: {about}, {figures['episodes']:.0f} episodes")
    return 0
