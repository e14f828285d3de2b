"""An evaluation that is kept: episodes go into a journal as they come, into a document at the end.

Whatever ends it before, the same call goes on where it stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from metanas import __version__
from metanas.checkpoint import Checkpoint
from metanas.data.episodes import Classes
from metanas.evaluation.evaluate import EpisodeShape, evaluate
from metanas.evaluation.journal import ENDING, Journal, Record
from metanas.evaluation.results import digest_of, record_of, write_stored
from metanas.spec.options import AdaptConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The subject of an evaluation, and its episodes."""

    checkpoint: Checkpoint
    dataset: str
    """Name of the data set."""
    split: str | None
    classes: Classes
    """Those of the split."""
    shape: EpisodeShape
    episodes: int
    """How many in all, numbered from 0."""
    seed: int
    options: AdaptConfig
    together: int = 1
    transductive: bool = False
    reseed: int = 0
    """Added to the seed of every adaptation; not to that of the episodes."""

    def settings(self) -> dict[str, Any]:
        """Identify the evaluation, whatever the number of its episodes."""
        return {
            "dataset": self.dataset,
            "dataset_digest": digest_of(self.classes),
            "split": self.split,
            "classes": len(self.classes),
            **asdict(self.shape),
            "seed": self.seed,
            "checkpoint": self.checkpoint.card.name,
            "checkpoint_digest": self.checkpoint.card.digest,
            "options": self.options.to_dict(),
            "transductive": self.transductive,
            "reseed": self.reseed,
            "software": f"metanas {__version__}, torch {torch.__version__}",
        }


Measure = Callable[[Plan, range], Iterator[Record]]
"""From a plan and the numbers of episodes to what was measured of each."""


def measured(plan: Plan, episodes: range) -> Iterator[Record]:
    """Adapt to these episodes of the plan and measure what came out."""
    for index, outcome in evaluate(
        plan.checkpoint,
        plan.classes,
        plan.shape,
        episodes=episodes,
        seed=plan.seed,
        options=plan.options,
        together=plan.together,
        transductive=plan.transductive,
        reseed=plan.reseed,
    ):
        yield record_of(index, outcome)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    measure: Measure = measured,
    on_episode: Callable[[int], None] = lambda done: None,
) -> list[Record]:
    """Measure the episodes that the journal beside `out` does not have yet, then write `out`.

    `on_episode` is told how many are done. Returns the records of all episodes of the plan.

    Raises:
        EvaluationError: `out` is being written, holds other settings, or cannot be written.
        DatasetError: the data set cannot give such episodes.
    """
    settings = plan.settings()
    with Journal(out.with_name(out.name + ENDING), settings) as journal:
        for record in measure(plan, range(len(journal.records), plan.episodes)):
            journal.add([record])
            on_episode(len(journal.records))
        records = journal.records[: plan.episodes]
        write_stored(out, settings, records)
    return records
