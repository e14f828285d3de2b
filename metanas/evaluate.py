"""Evaluation in process: the same episodes and the same files as through the server.

Beside the accuracy of the exported file it measures, on the queries, what no client can see: the
accuracy that the soft supernet had before it was pruned.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from metanas.adapt import SHARE_THRESHOLD, upload
from metanas.checkpoint import Checkpoint
from metanas.episodes import Classes, Episode, sample_episode
from metanas.export import run, session
from metanas.head import membership, prototype_logits
from metanas.kernels import Rows
from metanas.options import AdaptConfig
from metanas.pipeline import Job
from metanas.relax import Softmax
from metanas.report import Report
from metanas.support import Image
from metanas.task import Example
from metanas.workbench import make_all


@dataclass(frozen=True, kw_only=True)
class EpisodeShape:
    """Size of the episodes: classes, support images and queries of each."""

    ways: int
    shots: int
    queries: int


@dataclass(frozen=True)
class Outcome:
    """One episode: accuracies on its queries, 0 to 1, and the report of its adaptation."""

    accuracy: float
    """Of the exported file in ONNX Runtime, each query on its own."""
    soft: float
    """Of the soft supernet at the end of the search, before pruning and tuning."""
    report: Report


@dataclass(frozen=True)
class Mean:
    """A mean and the half width of its 95 % interval (normal approximation)."""

    mean: float
    interval: float


def evaluate(
    checkpoint: Checkpoint,
    classes: Classes,
    shape: EpisodeShape,
    *,
    episodes: int,
    seed: int,
    options: AdaptConfig,
    together: int = 1,
    on_episode: Callable[[int, Outcome], None] = lambda index, outcome: None,
) -> list[Outcome]:
    """Adapt to each of a number of episodes and classify its queries.

    Episode i is drawn from (seed, i) alone and adapted to with seed i, so the first n are the same
    whatever the number, and the same as in an evaluation through a server. `together` of them are
    adapted in one stack, which is faster and changes nothing but roundings.

    Raises:
        DatasetError: the data set cannot give such episodes.
    """
    outcomes = list[Outcome]()
    while (first := len(outcomes)) < episodes:
        chunk = range(first, min(first + together, episodes))
        drawn = [_drawn(classes, shape, seed, index) for index in chunk]
        outcomes += _outcomes(checkpoint, drawn, first, options)
        for index in chunk:
            on_episode(index, outcomes[index])
    return outcomes


def _drawn(classes: Classes, shape: EpisodeShape, seed: int, index: int) -> Episode:
    random = np.random.default_rng((seed, index))
    return sample_episode(
        classes, ways=shape.ways, shots=shape.shots, queries=shape.queries, random=random
    )


def mean_of(values: list[float]) -> Mean:
    """The mean over episodes with its interval."""
    array = np.array(values)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else math.nan
    return Mean(float(array.mean()), 1.96 * deviation / math.sqrt(len(array)))


def _outcomes(
    checkpoint: Checkpoint, episodes: list[Episode], first: int, options: AdaptConfig
) -> list[Outcome]:
    jobs = []
    for seed, episode in enumerate(episodes, first):
        labels = [episode.classes[label] for label in episode.support_labels]
        support = _images(episode.support)
        examples = [Example(label, image) for label, image in zip(labels, support, strict=True)]
        jobs.append(Job(checkpoint, examples, classes=episode.classes, options=options, seed=seed))
    make_all(jobs)
    return [_outcome(job, episode) for job, episode in zip(jobs, episodes, strict=True)]


def _outcome(job: Job, episode: Episode) -> Outcome:
    model, queries = job.result(), _images(episode.query)
    exported = run(session(model.onnx), queries)
    soft = _soft_logits(job, queries, job.options.temperature_end)
    return Outcome(
        float((exported.argmax(1) == episode.query_labels).mean()),
        float((soft.argmax(1).numpy() == episode.query_labels).mean()),
        model.report,
    )


def _images(stacked: NDArray[np.uint8]) -> list[Image]:
    """Images (H, W, C) out of (N, C, H, W)."""
    return [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in stacked]


@torch.no_grad()
def _soft_logits(job: Job, queries: list[Image], temperature: float) -> Tensor:
    """Of the supernet as it was before pruning."""
    assert job.task is not None
    assert job.adaptation is not None
    support, params = job.task.support, job.adaptation.soft
    count = len(support.images)
    pixels = torch.cat([job.task.preprocess(image) for image in queries])
    trunk, device = job.checkpoint.trunk, job.checkpoint.device
    inputs = upload(pixels, device) if trunk is None else trunk(upload(pixels, device))
    x = torch.cat([upload(support.images, device), inputs])
    arguments = (x, Rows(count), Softmax(temperature=temperature), SHARE_THRESHOLD)
    supernet = job.checkpoint.supernet
    with job.checkpoint.using:
        features: Tensor = functional_call(supernet, params, arguments, tie_weights=False)
    members = membership(support.labels, support.ways).to(x.device)
    scale = params["head.log_scale"].exp()
    return prototype_logits(features[:count], members, features[count:], scale).cpu()
