"""The ways to adapt that are compared: the product and the textbook; whole, or the search alone."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from time import perf_counter

import torch

from benchmarks._cases import Case, checkpoint_of, examples_of, task_of
from benchmarks._machine import ROOT, peak, status
from benchmarks._measure import seconds
from metanas.adaptation.adaptation import Adaptation, Stage, advance
from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import Checkpoint
from metanas.spec.options import AdaptConfig
from tests.core.textbook import textbook_adapt

KEPT = 12
"""Tensors that a candidate operation keeps for its backward pass, measured."""

Stages = dict[str, float]
"""Seconds of each stage, and `whole`."""

Candidate = Callable[[int], Stages]
"""Adapts to the support set of this number."""


def product(checkpoint: Checkpoint, case: Case, config: AdaptConfig) -> Candidate:
    """From encoded images to the checked file; the stages are those of the model's report."""

    def run(episode: int) -> Stages:
        examples = examples_of(case, episode)
        start = perf_counter()
        model = adapt(checkpoint, examples, options=config, seed=episode)
        return {**model.report.seconds, "whole": perf_counter() - start}

    return run


def textbook(checkpoint: Checkpoint, case: Case, config: AdaptConfig) -> Candidate:
    """The search alone, which is all that the textbook has."""
    return lambda episode: {"adapt": seconds(textbook_search(checkpoint, case, config, episode))}


def product_search(
    checkpoint: Checkpoint, case: Case, config: AdaptConfig, episode: int
) -> Callable[[], object]:
    """The product's search steps, about to begin: the support set is read."""
    support = task_of(checkpoint, case, episode).support
    generator = torch.Generator().manual_seed(episode)
    adaptation = Adaptation(checkpoint, support, config, generator)

    def search() -> None:
        while adaptation.stage is Stage.ADAPT:
            advance([adaptation])

    return search


def textbook_search(
    checkpoint: Checkpoint, case: Case, config: AdaptConfig, episode: int
) -> Callable[[], object]:
    """The textbook's, likewise."""
    support = task_of(checkpoint, case, episode).support
    generator = torch.Generator().manual_seed(episode)
    return partial(textbook_adapt, checkpoint, support, config, generator)


def textbook_bytes(checkpoint: Checkpoint, case: Case) -> float:
    """About how much memory the textbook needs for a step: it keeps every activation."""
    space, side = checkpoint.card.space, case.size / checkpoint.card.space.stem_stride
    values = 0.0
    for index, width in enumerate(space.channels):
        side /= 2 if index in space.reductions else 1
        kind = "reduce" if index in space.reductions else "normal"
        values += side**2 * width * int(checkpoint.supernet.cell_alpha(kind).alive.sum())
    images = min(case.ways * case.shots, checkpoint.card.defaults.batch_size)
    return 4 * KEPT * values * 2 * images


CANDIDATES: Mapping[str, Callable[[Checkpoint, Case, AdaptConfig], Candidate]] = {
    "product": product,
    "textbook": textbook,
}
SEARCHES: Mapping[str, Callable[[Checkpoint, Case, AdaptConfig, int], Callable[[], object]]] = {
    "steps": product_search,
    "textbook": textbook_search,
}


def memory_of(name: str, case: Case, config: AdaptConfig, threads: int) -> dict[str, int]:
    """Bytes resident before and at most during one adaptation, in a process of its own."""
    what = {"case": asdict(case), "options": config.to_dict(), "threads": threads}
    command = [sys.executable, "-m", "benchmarks._candidates", name, json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def main() -> None:
    name, what = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(what["threads"])
    case = Case(**what["case"])
    checkpoint = checkpoint_of(case)
    config = checkpoint.card.defaults.replace(what["options"])
    before = status()["VmRSS"]
    CANDIDATES[name](checkpoint, case, config)(0)
    print(json.dumps({"before": before, "peak": peak()}))


if __name__ == "__main__":
    main()
