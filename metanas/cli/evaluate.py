"""The commands `evaluate`, `compare` and `scores`."""

import argparse
from collections.abc import Sequence
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from metanas.adaptation.universal import load_source
from metanas.evaluation.compare import Comparison, compare
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
from metanas_data.suggest import existing, existing_folder, whole_number

SHOWN = {
    "accuracy": "exported",
    "accuracy_pruned": "pruned, not tuned",
    "accuracy_soft": "soft supernet",
    "accuracy_transductive": "transductive",
}
"""Accuracy in a record -> its title."""
COUNTS = (
    ("ways", 5, 2, inf, "classes of an episode"),
    ("shots", 1, 1, inf, "support images of a class"),
    ("queries", 5, 1, inf, "queries of a class"),
    ("episodes", 600, 1, inf, "number of episodes"),
    ("seed", 0, 0, inf, "seed of the episodes"),
    ("together", 1, 1, inf, "episodes that are adapted in one stack"),
    ("threads", 1, 1, MOST_THREADS, "threads of torch"),
)
"""Option, default, least and greatest value, help."""


def add_commands(commands: Any) -> None:
    """Declare the commands."""
    _add_evaluate(commands.add_parser("evaluate", help="evaluate a checkpoint in process"))
    command = commands.add_parser(
        "compare",
        help="compare two evaluations episode by episode",
        description="Print the accuracies of two evaluations on their common episodes, and the "
        "mean of the paired differences with its 95 % interval by Student's t. Reads the files of "
        "`evaluate --out` of this program and of the client.",
    )
    command.add_argument("one", type=existing, metavar="A.json")
    command.add_argument("other", type=existing, metavar="B.json")
    command.set_defaults(run=_compare)
    command = commands.add_parser(
        "scores",
        help="write accuracies of evaluations into the card of a checkpoint",
        description="Write accuracies of a checkpoint at its defaults into its card, which servers "
        "show. Reads the files of `evaluate --out` of this program and of the client. The digest "
        "of the checkpoint does not change.",
    )
    command.add_argument("checkpoint", type=existing_folder, help="folder of the checkpoint")
    command.add_argument("evaluations", type=existing, nargs="+", metavar="A.json")
    command.set_defaults(run=_scores)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Adapt to episodes of a data set in process and classify their queries with the exported "
        "files. Print also the accuracies of the pruned network before tuning and of the soft "
        "supernet. With --out, a journal stores every episode, and the same command resumes."
    )
    command.add_argument(
        "checkpoint",
        type=existing_folder,
        help="folder of the checkpoint, or that of universal.json",
    )
    command.add_argument(
        "--local",
        action="store_true",
        help="evaluate in this process, which `python -m metanas` does anyway; without this flag "
        "`metanas evaluate` is for a server",
    )
    command.add_argument("--data", type=existing, required=True, help="npz, or folder of classes")
    command.add_argument("--split", help="part of the data set (val if there is one, else all)")
    command.add_argument(
        "--rotations",
        action="store_true",
        help="add each class turned by 90, 180 and 270 degrees as three more classes, as in "
        "published Omniglot tables",
    )
    for name, default, least, most, about in COUNTS:
        command.add_argument(
            f"--{name}",
            type=whole_number(least, most),
            default=default,
            metavar="N",
            help=f"{about} (default: {default})",
        )
    command.add_argument(
        "--transductive",
        action="store_true",
        help="measure also with the norms' statistics of support set and queries together, as in "
        "many published tables; an exported model never sees several queries",
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default: cpu)")
    command.add_argument("--out", type=Path, help="file for the figures of all episodes, as JSON")
    command.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="override an option"
    )
    command.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    _check_out(arguments.out)
    torch.set_num_threads(arguments.threads)
    device = device_of(arguments.device)
    checkpoint = load_source(arguments.checkpoint, device=device)
    dataset = read_dataset(arguments.data, arguments.split)
    if arguments.rotations:
        dataset = with_rotations(dataset)
    shape = EpisodeShape(ways=arguments.ways, shots=arguments.shots, queries=arguments.queries)
    options = checkpoint.defaults.replace(parse_overrides(arguments.set))
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


def _check_out(out: Path | None) -> None:
    if out and (out.is_dir() or (out.exists() and not journal_path(out).exists())):
        message = f"{out} is a folder, or a file without a journal to resume; name another --out"
        raise EvaluationError("EVALUATION_UNWRITABLE", message)


def _show(plan: Plan, records: list[Record]) -> None:
    shape, dataset = plan.sampler.shape, plan.sampler.dataset
    print(
        f"{dataset.name}, {f'split {dataset.split}' if dataset.split else 'all classes'}: "
        f"{shape.ways}-way {shape.shots}-shot, "
        f"{counted(shape.queries, 'query', 'queries')} a class"
    )
    columns = {title: column(records, name) for name, title in SHOWN.items()}
    _print_table([(title, values) for title, values in columns.items() if values])


def _compare(arguments: argparse.Namespace) -> int:
    one, other = read_evaluation(arguments.one), read_evaluation(arguments.other)
    comparison = compare(one, other)
    _print_table(
        [
            (str(arguments.one), one.column("accuracy")[: comparison.episodes]),
            (str(arguments.other), other.column("accuracy")[: comparison.episodes]),
        ],
        comparison,
    )
    return 0


def _print_table(
    accuracies: Sequence[tuple[str, Sequence[float]]], comparison: Comparison | None = None
) -> None:
    """Print means with their 95 % intervals in percent, and a difference in points."""
    rows = [(title, mean_of(values), len(values), "") for title, values in accuracies]
    if comparison:
        rows.append(("difference", comparison.difference, comparison.episodes, "+"))
    width = max(len(title) for title, _, _, _ in rows)
    print(f"{'accuracy':{width}}    mean %   interval  episodes")
    for title, mean, count, sign in rows:
        half = f"± {100 * mean.interval:.2f}" if count > 1 else ""
        print(f"{title:{width}}  {100 * mean.mean:{sign}8.2f}  {half:>9}  {count:8}")


def _scores(arguments: argparse.Namespace) -> int:
    for setting, figures in add_scores(arguments.checkpoint, arguments.evaluations).items():
        accuracy = f"{figures['accuracy']:.2f} ± {figures['interval95']:.2f} %"
        print(f"{setting}: {accuracy}, {figures['episodes']:.0f} episodes")
    return 0
