"""Does it pay? Settings of the shipped checkpoint on the same episodes, compared pairwise.

    python -m benchmarks.study --data data/omniglot_28.npz
    python -m benchmarks.page benchmarks/results/study/*.json

The first command evaluates, keeps every episode in the folder --work and goes on where it was
interrupted; started twice, it shares the work. The second writes docs/results.md.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks._answers import answers
from benchmarks._evaluations import Evaluation, add_options, measure, planned
from benchmarks._machine import ROOT, facts
from benchmarks._plans import STEPS, settings_of
from benchmarks._results import LOCAL, Results, load, machine_line, save
from metanas.checkpoint import load_checkpoint
from metanas.errors import MetanasError
from metanas.runs.progress import bar
from metanas_data.datasets.dataset import read_dataset

TOPIC = "study"


def tables(results: Results) -> Mapping[str, str]:
    """All tables, by their names on the page."""
    return answers(results)


def _evaluations(options: argparse.Namespace) -> list[Evaluation]:
    """All at once: what is wrong with one of them shows before the first is begun."""
    checkpoint = load_checkpoint(options.checkpoint)
    data = read_dataset(options.data, options.split)
    settings = settings_of(options.shapes, options.steps, checkpoint.card.defaults)
    label = options.checkpoint.name
    return [planned(label, checkpoint, data, setting, options) for setting in settings]


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{TOPIC}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(made, LOCAL / TOPIC)
    add = made.add_argument
    shipped = ROOT / "meta_checkpoints" / "omniglot"
    add("--checkpoint", type=Path, default=shipped, help="what the study is about (%(default)s)")
    add("--steps", type=int, nargs="+", default=list(STEPS), metavar="N", help="%(default)s")
    out = LOCAL.parent / TOPIC
    add("--out", type=Path, help=f"what the page is made of ({out}/NAME.json of the checkpoint)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    out = options.out or LOCAL.parent / TOPIC / f"{options.checkpoint.resolve().name}.json"
    torch.set_num_threads(1)
    machine = facts()
    try:
        with bar() as shown:
            rows, busy = measure(_evaluations(options), options.work, shown)
    except MetanasError as error:
        print(f"error: {error} [{error.reason}]", file=sys.stderr)
        return 2
    if busy:
        print(f"another process is at {', '.join(busy)}; run this again when it is done")
        return 3
    save(Results(TOPIC, machine, rows), out)
    results = load(out)
    print("\n\n".join([machine_line(results), *tables(results).values()]))
    print(f"\nevery episode: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
