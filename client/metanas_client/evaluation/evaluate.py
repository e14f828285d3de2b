"""Batch evaluation: the server adapts to each episode, the exported file classifies its queries.

The accuracy is that of the ONNX file in ONNX Runtime, inductive: no query sees another one. Needs
the extra "onnx".
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from metanas_client.aio import AsyncAdaptation, AsyncClient
from metanas_client.errors import Busy
from metanas_client.model import Model
from metanas_client.onnx.model_file import ModelFile
from metanas_client.resources import Option
from metanas_data.datasets.episodes import Episode, Sampler
from metanas_data.evaluations import figures_of
from metanas_data.journal import Journal, Record

BUSY_PAUSE = 1.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings of a batch evaluation."""

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
        ClientError: the first one of any episode; finished episodes stay in the journal.
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

    The latency is that of a caller: from the first byte sent to the verified model in hand, waiting
    for a worker included.
    """
    handle, begin = await _begin(client, episode, plan)
    try:
        model = await handle.result()
    except asyncio.CancelledError:
        await handle.cancel()  # its model will not be fetched
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
        except Busy as error:  # a full queue is no failure of the episode
            await asyncio.sleep(error.retry_after or BUSY_PAUSE)
        else:
            return handle, begin
