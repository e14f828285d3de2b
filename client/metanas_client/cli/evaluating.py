"""`metanas evaluate`: many episodes through the server, in figures, a JSON file and a picture."""

import argparse
import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from metanas_client.aio import AsyncClient
from metanas_client.checks import choose_checkpoint
from metanas_client.cli import arguments as shared
from metanas_client.cli.arguments import add_force, check_output
from metanas_client.cli.exits import OK
from metanas_client.cli.screen import Screen
from metanas_client.extras import needs
from metanas_client.resources import Checkpoint
from metanas_client.text import number, percent, size
from metanas_data.journal import Journal, journal_path
from metanas_data.suggest import whole_number

if TYPE_CHECKING:
    from metanas_data.datasets.episodes import Sampler


def add_commands(commands: Any, environment: Mapping[str, str]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure accuracy and latency on many episodes",
        description="Samples episodes from a data set, sends every support set through the server, "
        "downloads every model and classifies the queries with the file in ONNX Runtime. With "
        "--out, a journal beside the file stores every episode, and the same command resumes.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="NPZ|FOLDER", help="an .npz or class folders")
    add("--split", help='part of the data set ("val" if there is one, else everything)')
    add(
        "--rotations",
        action="store_true",
        help="add each class turned by 90, 180 and 270 degrees as three more classes, as in "
        "published Omniglot tables",
    )
    add("--ways", type=int, default=5, metavar="N", help="classes of an episode (5)")
    add("--shots", type=int, default=1, metavar="N", help="support images a class (1)")
    add("--queries", type=int, default=5, metavar="N", help="query images a class (5)")
    add(
        "--episodes",
        type=whole_number(1),
        default=100,
        metavar="N",
        help="number of episodes (100)",
    )
    add("--seed", type=int, default=0, help="seed of the sampling (0)")
    add(
        "--concurrency", type=whole_number(1), default=4, metavar="N", help="episodes at a time (4)"
    )
    add("--out", type=Path, metavar="FILE.json", help="write all measurements as JSON")
    add("--plot", type=Path, metavar="FILE", help="draw the figures into a .svg, .png or .pdf")
    add_force(parser)
    add("--restart", action="store_true", help="discard the journal and start again")
    add("--keep", action="store_true", help="leave the models on the server")
    about = "evaluate a checkpoint in this process; see metanas evaluate --local --help"
    add("--local", action="store_true", help=about)
    shared.add_options(parser)
    shared.add_server(parser, environment)
    shared.add_json(parser)
    parser.set_defaults(run=evaluate)


def evaluate(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run the command."""
    _check(arguments)
    with needs("onnx"):
        from metanas_client.evaluation import summarise
        from metanas_data.datasets.dataset import read_dataset, with_rotations
        from metanas_data.datasets.episodes import EpisodeShape, Sampler
        from metanas_data.evaluations import write_evaluation
    shape = EpisodeShape(ways=arguments.ways, shots=arguments.shots, queries=arguments.queries)
    dataset = read_dataset(arguments.data, arguments.split)
    if arguments.rotations:
        dataset = with_rotations(dataset)
    sampler = Sampler(dataset, shape, arguments.seed)
    with ExitStack() as stack:
        journal = asyncio.run(_run(arguments, sampler, screen, stack))
        records = [journal.episodes[index] for index in range(arguments.episodes)]
        summary = summarise(records, journal.runs)
        if arguments.out is not None:
            write_evaluation(arguments.out, journal.settings, records, summary)
    if arguments.plot is not None:
        _plot(arguments, records)
    if screen.as_json:
        screen.json({"settings": journal.settings, "summary": summary})
    else:
        _show(arguments, summary, screen)
    return OK


async def _run(
    arguments: argparse.Namespace, sampler: "Sampler", screen: Screen, stack: ExitStack
) -> Journal:
    from metanas_client.evaluation import Plan
    from metanas_client.evaluation import evaluate as run_episodes

    async with AsyncClient(**shared.connection(arguments)) as client:
        checkpoint = choose_checkpoint(await client.checkpoints(), arguments.checkpoint)
        journal = _journal(arguments, sampler, checkpoint, stack)
        plan = Plan(
            checkpoint=checkpoint.name,
            options=shared.options(arguments),
            episodes=arguments.episodes,
            concurrency=arguments.concurrency,
            keep=arguments.keep,
        )
        with screen.progress() as advance:

            def on_episode() -> None:
                accuracies = [float(row["accuracy"]) for row in journal.episodes.values()]
                status = f"accuracy {100 * sum(accuracies) / len(accuracies):.2f} %"
                advance(status, len(accuracies), arguments.episodes)

            await run_episodes(client, sampler, plan, journal, on_episode)
    return journal


def _journal(
    arguments: argparse.Namespace, sampler: "Sampler", checkpoint: Checkpoint, stack: ExitStack
) -> Journal:
    if arguments.out is None:
        path = Path(stack.enter_context(TemporaryDirectory())) / "journal.jsonl"
    else:
        path = journal_path(arguments.out)
    settings = {
        **sampler.settings(),
        "checkpoint": checkpoint.name,
        "checkpoint_digest": checkpoint.digest,
        "options": {**checkpoint.defaults, **shared.options(arguments)},
    }
    return stack.enter_context(Journal(path, settings, restart=arguments.restart))


def _check(arguments: argparse.Namespace) -> None:
    out = arguments.out
    # with a journal beside it, the same command continues and replaces its own output
    resumed = out is not None and journal_path(out).exists()
    for path in (out, arguments.plot):
        if path is not None:
            check_output(path, force=arguments.force or resumed)
    if arguments.plot is not None:
        with needs("plot"):
            from metanas_client.figures import check_format
        check_format(arguments.plot)


def _plot(arguments: argparse.Namespace, episodes: Any) -> None:
    with needs("plot"):
        from metanas_client.figures import draw_evaluation
    title = f"{arguments.ways}-way {arguments.shots}-shot, {arguments.data.name}"
    draw_evaluation(episodes, title, arguments.plot)


def _show(arguments: argparse.Namespace, summary: dict[str, Any], screen: Screen) -> None:
    interval = summary["interval95"]
    about = "" if interval is None else f" ± {100 * interval:.2f}"
    support = summary["support"]
    soft, pruned = percent(support["accuracy_soft"]), percent(support["accuracy_pruned"])
    screen.facts(
        [
            (
                "episodes",
                f"{summary['episodes']} of {arguments.ways} ways, {arguments.shots} shots",
            ),
            ("query accuracy", f"{100 * summary['accuracy']:.2f}{about} %  (95 % interval)"),
            ("adaptation latency", _times(summary["latency_seconds"])),
            ("of it on the worker", _times(summary["worker_seconds"])),
            ("episodes a second", number(summary["episodes_per_second"])),
            ("model size", size(summary.get("bytes"))),
            ("parameters", number(summary.get("parameters"))),
            ("support: soft, pruned, final", f"{soft}, {pruned}, {percent(support['accuracy'])}"),
            ("gap of the logits, soft to pruned", number(support["logit_gap"])),
            ("leave-one-out accuracy", percent(support["leave_one_out"])),
            ("edges that differ from the checkpoint's", number(support["meta_genotype_distance"])),
            ("ONNX Runtime to torch, at most", number(summary["onnx_difference_max"])),
        ]
    )


def _times(times: Mapping[str, float] | None) -> str:
    if times is None:
        return "–"
    shown = ", ".join(f"{name} {times[name]:.2f}" for name in ("p50", "p95", "p99"))
    return f"{shown} s"
