"""Evaluation in process: the same episodes and the same files as through the server.

Beside the accuracy of the exported file it measures, on the queries, what no client can see: the
accuracies of the soft supernet, of that network just pruned, and, if it is asked to, the
transductive one that published tables commonly report.
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
from metanas.adaptation.views import of_prototypes
from metanas.checkpoint import Checkpoint
from metanas.data.episodes import Classes, Episode, sample_episode
from metanas.errors import DatasetError
from metanas.export.verify import run, session
from metanas.images.shifted_copies import averaged, with_copies
from metanas.images.support_set import Image
from metanas.nn.functional import Rows
from metanas.nn.prototypes import prototype_logits
from metanas.nn.upload import upload
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig
from metanas.spec.report import Report
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Argmax, Relaxation, Softmax


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
    pruned: float
    """Of the pruned network with the weights of the end of the search, before tuning."""
    soft: float
    """Of the soft supernet at the end of the search, before pruning and tuning."""
    transductive: float | None
    """Of the network that left, with statistics of support and queries together, if asked for."""
    query_seconds: float
    """Of the exported file in ONNX Runtime on one thread, for the fastest of the queries."""
    report: Report


def evaluate(  # noqa: PLR0913 (what an evaluation is)
    checkpoint: Checkpoint,
    classes: Classes,
    shape: EpisodeShape,
    *,
    episodes: Sequence[int],
    seed: int,
    options: AdaptConfig,
    together: int = 1,
    transductive: bool = False,
    reseed: int = 0,
) -> Iterator[tuple[int, Outcome]]:
    """Adapt to each of these episodes, by their numbers, and classify its queries.

    Episode i is drawn from (seed, i) alone and adapted to with seed i, so it is the same in every
    evaluation, and the same as in one through a server. `together` of them are adapted in one
    stack, which is faster and changes nothing but roundings. `transductive`: measure also what the
    network would answer if its norms had the statistics of support and queries together. `reseed`
    is added to the seeds of the adaptations.

    Raises:
        DatasetError: the data set cannot give such episodes.
    """
    for start in range(0, len(episodes), together):
        chunk = episodes[start : start + together]
        drawn = [draw(classes, shape, seed, index) for index in chunk]
        pairs = zip(drawn, chunk, strict=True)
        jobs = [job_of(checkpoint, episode, index + reseed, options) for episode, index in pairs]
        make_all(jobs)
        for index, job, episode in zip(chunk, jobs, drawn, strict=True):
            yield index, _outcome(job, episode, transductive)


def draw(classes: Classes, shape: EpisodeShape, seed: int, index: int) -> Episode:
    """Episode number `index`, of those classes that have enough images, as the client draws it.

    Raises:
        DatasetError: DATASET_TOO_FEW_CLASSES, there are fewer of them than ways.
    """
    needed = shape.shots + shape.queries
    enough = {name: images for name, images in classes.items() if len(images) >= needed}
    if len(enough) < shape.ways:
        message = f"{shape.ways} ways of {shape.shots} shots and {shape.queries} queries need "
        message += f"{shape.ways} classes of at least {needed} images; {len(enough)} of the data "
        message += f"set's {len(classes)} have that many"
        raise DatasetError("DATASET_TOO_FEW_CLASSES", message)
    random = np.random.default_rng((seed, index))
    return sample_episode(
        enough, ways=shape.ways, shots=shape.shots, queries=shape.queries, random=random
    )


def job_of(checkpoint: Checkpoint, episode: Episode, seed: int, options: AdaptConfig) -> Job:
    """The adaptation to an episode's support set."""
    labels = [episode.classes[label] for label in episode.support_labels]
    support = images_of(episode.support)
    examples = [Example(label, image) for label, image in zip(labels, support, strict=True)]
    return Job(checkpoint, examples, classes=episode.classes, options=options, seed=seed)


def images_of(stacked: NDArray[np.uint8]) -> list[Image]:
    """Images (H, W, C) out of (N, C, H, W)."""
    return [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in stacked]


def _outcome(job: Job, episode: Episode, transductive: bool) -> Outcome:
    model, queries = job.result(), images_of(episode.query)
    exported = session(model.onnx)
    logits, seconds = _timed(exported, queries)
    assert job.adaptation is not None
    found, left = job.adaptation.soft, job.adaptation.optimizer.snapshot()
    relaxed = Softmax(temperature=job.options.temperature_end)

    def share(answers: Tensor) -> float:
        return float((answers.argmax(1).numpy() == episode.query_labels).mean())

    return Outcome(
        accuracy=share(logits),
        pruned=share(supernet_logits(job, queries, found, Argmax())),
        soft=share(supernet_logits(job, queries, found, relaxed)),
        transductive=share(supernet_logits(job, queries, left, Argmax(), transductive=True))
        if transductive
        else None,
        query_seconds=seconds,
        report=model.report,
    )


def _timed(model: InferenceSession, queries: list[Image]) -> tuple[Tensor, float]:
    """Logits (Q, ways), and the seconds of the fastest query: whatever else runs, it slows down."""
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
    """Logits (Q, ways) of queries by a job's supernet with these parameters, mixed like this."""
    assert job.task is not None
    _, members = of_prototypes(job.task.support)
    shown, queried = supernet_features(job, queries, params, relaxation, transductive=transductive)
    return prototype_logits(shown, members, queried, params["head.log_scale"].exp().cpu())


@torch.no_grad()
def supernet_features(
    job: Job,
    queries: list[Image],
    params: Params,
    relaxation: Relaxation,
    *,
    transductive: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features (M, D) of what prototypes are made of and (Q, D) of queries, on the CPU.

    The support images are the first of the former. The statistics of norms come from these, or with
    `transductive` from the queries, too. It looks at each image as often as the job's model does.
    """
    assert job.task is not None
    checkpoint, support = job.checkpoint, job.task.support
    shown, _ = of_prototypes(support)
    pixels = torch.cat([job.task.preprocess(image) for image in queries])
    shown, queried = upload([shown, pixels], checkpoint.device)
    if checkpoint.trunk is not None:
        queried = checkpoint.trunk(queried)
    count = len(support.images)
    inputs = torch.cat([shown[:count], queried, shown[count:]])
    rows = Rows(count + len(queries) if transductive else count)
    shift = job.options.shift_pixels
    arguments = (with_copies(inputs, shift), rows, relaxation, SHARE_THRESHOLD)
    with checkpoint.using:
        features: Tensor = functional_call(
            checkpoint.supernet, params, arguments, tie_weights=False
        )
    seen = averaged(features.cpu(), shift)
    images, answered, views = seen.tensor_split([count, count + len(queries)])
    return torch.cat([images, views]), answered
