"""Resumable evaluation: a journal stores each finished episode, a result file all of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metanas import __version__
from metanas.adaptation.universal import Source
from metanas.evaluation.evaluate import Outcome, evaluate
from metanas.spec.options import AdaptConfig
from metanas_data.datasets.episodes import Sampler
from metanas_data.evaluations import figures_of, write_evaluation
from metanas_data.journal import Journal, Record, journal_path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The checkpoint, the episodes and the options of an evaluation."""

    checkpoint: Source
    sampler: Sampler
    """The source of the episodes."""
    episodes: int
    """Number of episodes; they are numbered from 0."""
    options: AdaptConfig
    together: int = 1
    transductive: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the identity of the evaluation, which does not include the episode count."""
        return {
            **self.sampler.settings(),
            "checkpoint": self.checkpoint.name,
            "checkpoint_digest": self.checkpoint.digest,
            "options": self.options.to_dict(),
            "transductive": self.transductive,
            "software": f"metanas {__version__}, torch {torch.__version__}",
        }


Measure = Callable[[Plan, Sequence[int]], Iterator[Record]]
"""Measure the episodes of a plan that have these numbers."""


def record_of(index: int, outcome: Outcome) -> Record:
    """Return the record of an episode."""
    return {
        "episode": index,
        "accuracy": outcome.accuracy,
        "accuracy_pruned": outcome.pruned,
        "accuracy_soft": outcome.soft,
        "accuracy_transductive": outcome.transductive,
        "query_seconds": round(outcome.query_seconds, 7),
        **figures_of(outcome.report),
    }


def measured(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Adapt to these episodes of the plan and classify their queries."""
    for index, outcome in evaluate(
        plan.checkpoint,
        plan.sampler,
        episodes=episodes,
        options=plan.options,
        together=plan.together,
        transductive=plan.transductive,
    ):
        yield record_of(index, outcome)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    measure: Measure = measured,
    on_episode: Callable[[int], None] = lambda done: None,
) -> list[Record]:
    """Measure the episodes that the journal beside `out` lacks, write `out`, return all records.

    on_episode: gets the number of finished episodes after each of them.

    Raises:
        EvaluationError: another process writes the journal, it has other settings, or one of the
            files cannot be written.
        DatasetError: the data set cannot give such episodes.
    """
    with Journal(journal_path(out), plan.settings()) as journal:
        for record in measure(plan, journal.missing(plan.episodes)):
            journal.add(record)
            on_episode(len(journal.episodes))
        records = [journal.episodes[index] for index in range(plan.episodes)]
        write_evaluation(out, journal.settings, records)
    return records
