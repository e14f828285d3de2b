"""Spans of an adaptation that has ended: its waits, its attempts with their stages, its storing."""

from collections.abc import Iterator
from itertools import groupby, pairwise

from metanas_server.jobs.job import Job, Move
from metanas_server.observation.spans import Span
from metanas_server.resources import State


def adaptation_span(job: Job) -> Span:
    """Return the span of an adaptation, from its acceptance or its adoption by this server.

    It has neither the name of the caller nor those of classes.
    """
    record = job.record
    reason = "" if record.failure is None else record.failure.reason
    error = reason if record.state is State.FAILED else ""
    attributes: dict[str, str | int] = {
        "metanas.adaptation": record.id,
        "metanas.checkpoint": record.checkpoint,
        "metanas.examples": record.example_count,
        "metanas.state": record.state.value,
    }
    if reason:
        attributes["metanas.reason"] = reason
    return Span(
        name="adaptation",
        start=job.moves[0].time,
        end=job.moves[-1].time,
        error=error,
        attributes=attributes,
        children=tuple(_parts(job, error)),
    )


def _parts(job: Job, error: str) -> Iterator[Span]:
    """Yield the spans of the waits and the attempts, and that of the storing of the model."""
    for here, there in pairwise(job.moves):
        is_last = there is job.moves[-1]
        if here.state is State.QUEUED:
            yield Span(name="queue", start=here.time, end=there.time, error=error * is_last)
        elif there.state is State.SUCCEEDED:
            made = job.record.end_time
            yield _attempt(job, here, made, "")
            yield Span(name="store", start=made, end=there.time)
        else:
            yield _attempt(job, here, there.time, error if is_last else "WORKER_LOST")


def _attempt(job: Job, begin: Move, end: int, error: str) -> Span:
    """Return the span of an attempt, with its stages by the times of its progress."""
    progress = [each for each in job.progress if each.attempt == begin.attempt]
    runs = groupby(progress, key=lambda each: (each.stage, each.branch))
    starts = [next(entries) for _, entries in runs]
    ends = [*(each.time for each in starts[1:]), end][: len(starts)]
    return Span(
        name="attempt",
        start=begin.time,
        end=end,
        error=error,
        attributes={"metanas.attempt": begin.attempt, "metanas.device": begin.device},
        children=tuple(
            Span(
                name=entry.stage,
                start=entry.time,
                end=until,
                attributes={"metanas.branch": entry.branch} if entry.branch else {},
            )
            for entry, until in zip(starts, ends, strict=True)
        ),
    )
