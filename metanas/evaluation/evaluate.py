"""Evaluation in process, on the same episodes as through a server.

The accuracy is that of the exported file on the queries. Further accuracies, which a client cannot
measure, are those of the soft supernet, of the pruned network before tuning, and on request the
transductive one of many published tables.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import Tensor
from torch.func import functional_call

from metanas.adaptation.job import Job
from metanas.adaptation.objective import SHARE_THRESHOLD
from metanas.adaptation.scheduler import make_all
from metanas.adaptation.universal import Source
from metanas.adaptation.views import head_inputs
from metanas.export.runtime import run, session
from metanas.images.shifted_copies import averaged, with_copies
from metanas.images.support_set import Image
from metanas.nn.devices import upload
from metanas.nn.functional import Rows
from metanas.nn.heads import HEADS
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Argmax, Relaxation, Softmax
from metanas_data.datasets.dataset import content, pixels
from metanas_data.datasets.episodes import Episode, Sampler
from metanas_data.report import Report


@dataclass(frozen=True)
class Outcome:
    """One episode: accuracies on its queries, 0 to 1, and the report of its adaptation."""

    accuracy: float
    """Accuracy of the exported file in ONNX Runtime, query by query."""
    pruned: float | None
    """Accuracy of the pruned network with the weights of the end of the search, before tuning.
    None for the universal search space, whose models join several networks."""
    soft: float | None
    """Accuracy of the soft supernet at the end of the search, before pruning and tuning."""
    transductive: float | None
    """Accuracy of the exported network with statistics of support set and queries, if requested."""
    query_seconds: float
    """Seconds of the fastest query of the exported file in ONNX Runtime on one thread."""
    report: Report


def evaluate(
    checkpoint: Source,
    sampler: Sampler,
    *,
    episodes: Sequence[int],
    options: AdaptConfig,
    together: int = 1,
    transductive: bool = False,
) -> Iterator[tuple[int, Outcome]]:
    """Adapt to each of these episodes, by their numbers, and classify its queries.

    Episode i is the same in every evaluation with the same sampler, in process and through a
    server. The seed of its adaptation is i.

    Args:
        checkpoint: the checkpoint to adapt, or the universal search space.
        sampler: the source of the episodes.
        episodes: their numbers.
        options: the options of the adaptations.
        together: episodes that are adapted in one stack, which is faster and changes roundings
            only.
        transductive: also measure the accuracy with norm statistics of support set and queries
            together.

    Raises:
        InvalidInput: a support set that cannot be adapted to.
        ImageError: a query that cannot be decoded.
    """
    for start in range(0, len(episodes), together):
        chunk = episodes[start : start + together]
        drawn = [sampler.episode(index) for index in chunk]
        jobs = [job_of(checkpoint, episode, options) for episode in drawn]
        make_all(jobs)
        for index, job, episode in zip(chunk, jobs, drawn, strict=True):
            yield index, _outcome(job, episode, transductive)


def job_of(checkpoint: Source, episode: Episode, options: AdaptConfig) -> Job:
    """Return the adaptation to an episode's support set; its seed is the number of the episode."""
    examples = [
        Example(label, content(image))
        for label, images in episode.support.items()
        for image in images
    ]
    classes, seed = tuple(episode.support), episode.index
    return Job(checkpoint, examples, classes=classes, options=options, seed=seed)


def queries_of(episode: Episode, channels: int) -> tuple[list[Image], NDArray[np.int64]]:
    """Return the queries as (H, W, channels), and their labels.

    Raises:
        ImageError: a query cannot be decoded.
    """
    by_class = episode.queries.values()
    images = [pixels(image, channels) for images in by_class for image in images]
    return images, np.repeat(np.arange(len(by_class)), [len(images) for images in by_class])


def _outcome(job: Job, episode: Episode, transductive: bool) -> Outcome:
    model = job.result()
    adaptation = job.adaptation
    assert adaptation is not None
    exported = session(model.onnx)
    queries, labels = queries_of(episode, exported.get_inputs()[0].shape[3])
    logits, seconds = _timed(exported, queries)
    searched, tuned = adaptation.soft, adaptation.optimizer.snapshot()
    relaxed = Softmax(temperature=adaptation.config.temperature_end)

    def accuracy(logits: Tensor) -> float:
        return float((logits.argmax(1).numpy() == labels).mean())

    one = not model.report.architecture
    return Outcome(
        accuracy=accuracy(logits),
        pruned=accuracy(supernet_logits(job, queries, searched, Argmax())) if one else None,
        soft=accuracy(supernet_logits(job, queries, searched, relaxed)) if one else None,
        transductive=accuracy(supernet_logits(job, queries, tuned, Argmax(), transductive=True))
        if transductive and one
        else None,
        query_seconds=seconds,
        report=model.report,
    )


def _timed(model: InferenceSession, queries: list[Image]) -> tuple[Tensor, float]:
    """Return logits (Q, ways) and the seconds of the fastest query.

    The fastest query is the one that other programs disturb least.
    """
    rows, seconds = [], []
    for query in queries:
        start = time.perf_counter()
        rows.append(run(model, [query]))
        seconds.append(time.perf_counter() - start)
    return torch.from_numpy(np.concatenate(rows)), min(seconds)


def supernet_logits(
    job: Job,
    queries: list[Image],
    params: Params,
    relaxation: Relaxation,
    *,
    transductive: bool = False,
) -> Tensor:
    """Return logits (Q, ways) by the job's supernet with these parameters and relaxation."""
    assert job.task is not None
    assert job.adaptation is not None
    _, members = head_inputs(job.task.support, job.adaptation.checkpoint.card)
    support, query = supernet_features(job, queries, params, relaxation, transductive=transductive)
    scale = params["head.log_scale"].exp().cpu()
    weight, bias = HEADS[job.adaptation.config.head].linear(support, members, scale)
    return query @ weight.T + bias


@torch.no_grad()
def supernet_features(
    job: Job,
    queries: list[Image],
    params: Params,
    relaxation: Relaxation,
    *,
    transductive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return features (M, D) for the head and (Q, D) of queries, on the CPU.

    The first of the M rows are those of the support images; the others are those of their stored
    views. The statistics of norms come from the support images, with `transductive` from the
    queries too. Shifted copies are averaged as in the job's model.
    """
    assert job.task is not None
    assert job.adaptation is not None
    checkpoint, count = job.adaptation.checkpoint, len(job.task.support.images)
    support, _ = head_inputs(job.task.support, checkpoint.card)
    pixels = torch.cat([job.task.preprocess(image) for image in queries])
    support, query = upload([support, pixels], checkpoint.device)
    if checkpoint.trunk is not None:
        query = checkpoint.trunk(query)
    inputs = torch.cat([support[:count], query, support[count:]])
    rows = Rows(count + len(queries) if transductive else count)
    shift = job.adaptation.config.shift_pixels
    arguments = (with_copies(inputs, shift), rows, relaxation, SHARE_THRESHOLD)
    with checkpoint.using:
        features: Tensor = functional_call(
            checkpoint.supernet, params, arguments, tie_weights=False
        )
    means = averaged(features.cpu(), shift)
    images, query, views = means.tensor_split([count, count + len(queries)])
    return torch.cat([images, views]), query
