"""Counts and durations of the queries to each model."""

import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from metanas_server.inference.clock import Clock, Phase
from metanas_server.resources import ModelRecord


@dataclass
class Counts:
    """The queries to one model; durations are in nanoseconds."""

    id: str
    digest: str
    """SHA-256 of the model's file."""
    images: int = 0
    runs: int = 0
    last: int = 0
    """Time of the last query, in nanoseconds since 1970."""
    answered: int = 0
    answered_time: int = 0
    failed: int = 0
    failed_time: int = 0
    phases: Counter[Phase] = field(default_factory=Counter)
    """Durations of the phases of answered queries."""


class Statistics:
    """The counts of the models that were asked last."""

    def __init__(self, most_models: int) -> None:
        """Keep at most this number of models."""
        self._most_models = most_models
        self._counts: OrderedDict[str, Counts] = OrderedDict()

    def all(self) -> Sequence[Counts]:
        """Return the counts of all models."""
        return tuple(self._counts.values())

    def of(self, record: ModelRecord) -> Counts:
        """Return the counts of a model; zeros for one that was not asked."""
        return self._counts.get(record.id, Counts(record.id, record.sha256))

    def answered(self, record: ModelRecord, images: int, clock: Clock) -> None:
        """Count an answered query."""
        clock.stop()
        counts = self._touch(record)
        counts.images += images
        counts.runs += clock.runs
        counts.answered += 1
        counts.answered_time += clock.elapsed
        counts.phases.update(clock.nanoseconds)

    def failed(self, record: ModelRecord, clock: Clock) -> None:
        """Count a query that was refused, failed or cancelled."""
        counts = self._touch(record)
        counts.failed += 1
        counts.failed_time += clock.elapsed

    def _touch(self, record: ModelRecord) -> Counts:
        counts = self._counts.setdefault(record.id, Counts(record.id, record.sha256))
        self._counts.move_to_end(record.id)
        counts.last = time.time_ns()
        if len(self._counts) > self._most_models:
            self._counts.popitem(last=False)
        return counts
