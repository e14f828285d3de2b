"""Evaluation of a server over the episodes of a data set, with a journal to resume from.

The server adapts to each support set, and the exported file classifies the queries in ONNX Runtime,
one by one. The results are accuracies with intervals, latencies and throughput. Needs the extra
"onnx".
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metanas_client.aio import AsyncAdaptation, AsyncClient
from metanas_client.errors import Busy
from metanas_client.model import Model
from metanas_client.onnx.model_file import ModelFile
from metanas_client.resources import Option
from metanas_data.datasets.episodes import Episode, Sampler
from metanas_data.evaluations import column, figures_of, summary_of
from metanas_data.journal import Journal, Record

BUSY_PAUSE = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of an evaluation."""

    checkpoint: str
    options: Mapping[str, Option]
    episodes: int
    """Number of episodes; they are numbered from 0."""
    concurrency: int
    """Number of episodes at a time, at least 1."""
    keep: bool = False
    """Leave the models on the server."""


async def evaluate(
    client: AsyncClient,
    sampler: Sampler,
    plan: Plan,
    journal: Journal,
    on_episode: Callable[[], None],
) -> None:
    """Run the episodes that the journal lacks, and add them to it.

    Raises:
        MetanasError: the first error of an episode; finished episodes stay in the journal.
    """
    missing = journal.missing(plan.episodes)
    if not missing:
        return
    pending = iter(missing)
    begin, before = time.perf_counter(), len(journal.episodes)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(plan.concurrency, len(missing))):
                group.create_task(_work(client, sampler, plan, journal, pending, on_episode))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        done = len(journal.episodes) - before
        if done:
            journal.add_run(done, time.perf_counter() - begin)


async def _work(
    client: AsyncClient,
    sampler: Sampler,
    plan: Plan,
    journal: Journal,
    pending: Iterator[int],
    on_episode: Callable[[], None],
) -> None:
    for index in pending:
        episode = await asyncio.to_thread(sampler.episode, index)
        record = await run_episode(client, episode, plan)
        journal.add(record)
        on_episode()


async def run_episode(client: AsyncClient, episode: Episode, plan: Plan) -> Record:
    """Adapt to the support set, download the model, classify the queries with it.

    The latency runs from the first byte sent to the verified model, and includes the queue.
    """
    handle, begin = await _begin(client, episode, plan)
    try:
        model = await handle.result()
    except asyncio.CancelledError:
        await handle.cancel()
        raise
    latency = time.perf_counter() - begin
    accuracy = await asyncio.to_thread(query_accuracy, model, episode)
    if not plan.keep:
        await client.delete_model(model.name)
        await handle.delete()
    return {
        "episode": episode.index,
        "accuracy": accuracy,
        "latency": latency,
        **figures_of(model.report),
        "sha256": model.info.sha256,
        "classes": list(episode.support),
    }


def query_accuracy(model: Model, episode: Episode) -> float:
    """Return the share of the queries that the exported file classifies correctly."""
    queries = [image for images in episode.queries.values() for image in images]
    counts = [len(images) for images in episode.queries.values()]
    best = ModelFile(model.onnx, source=model.name).logits(queries).argmax(axis=1)
    return float(np.mean(best == np.repeat(np.arange(len(counts)), counts)))


async def _begin(
    client: AsyncClient, episode: Episode, plan: Plan
) -> tuple[AsyncAdaptation, float]:
    while True:
        begin = time.perf_counter()
        try:
            handle = await client.adapt(
                episode.support,
                checkpoint=plan.checkpoint,
                seed=episode.index,
                options=plan.options,
            )
        except Busy as error:  # a full queue is not a failure of the episode
            await asyncio.sleep(error.retry_after or BUSY_PAUSE)
        else:
            return handle, begin


def summarise(records: Sequence[Record], runs: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of the episodes; None for a figure that no episode has.

    runs: the episodes and the seconds of each run of the evaluation.
    """
    seconds = sum(float(run["seconds"]) for run in runs)
    timed = sum(int(run["episodes"]) for run in runs)
    stages = ("support_accuracy_soft", "support_accuracy_pruned")
    both = [record for record in records if None not in [record.get(name) for name in stages]]
    soft, pruned = (column(both, name) for name in stages)
    return {
        **summary_of(records),
        "latency_seconds": percentiles(column(records, "latency")),
        "worker_seconds": percentiles(column(records, "worker_seconds")),
        "episodes_per_second": timed / seconds if seconds > 0 else None,
        "onnx_difference_max": max(column(records, "onnx_difference"), default=None),
        "support": {
            "accuracy": _mean(column(records, "support_accuracy")),
            "accuracy_soft": _mean(soft),
            "accuracy_pruned": _mean(pruned),
            "accuracy_gap": _mean([a - b for a, b in zip(soft, pruned, strict=True)]),
            **{
                name: _mean(column(records, name))
                for name in ("logit_gap", "leave_one_out", "meta_genotype_distance")
            },
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the mean, and the 50th, 95th and 99th percentile."""
    if not values:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return {"mean": float(np.mean(values)), "p50": p50, "p95": p95, "p99": p99}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
