"""Control groups: class prototypes on the frozen trunk, and a linear probe on frozen features.

Nothing is adapted. The probe is multinomial logistic regression on the support set's features by
the pruned meta-network, centred and of unit length (as in SimpleShot, arXiv:1911.04623), with the
usual penalty of half the squared weights.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.job import Job
from metanas.evaluation.evaluate import job_of, queries_of, supernet_features
from metanas.evaluation.resume import Plan
from metanas.images.support_set import Image, Task
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.nn.trunk import Maps
from metanas.supernet.relaxations import Argmax
from metanas_data.journal import Record

Answer = Callable[[Job, Task, list[Image]], Tensor]
"""From a decoded job and its queries to their labels `(Q,)`."""


def linear_probe(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Measure the accuracy of a linear probe on these episodes."""

    def answer(job: Job, task: Task, images: list[Image]) -> Tensor:
        features, queries = supernet_features(job, images, plan.checkpoint.params, Argmax())
        labels = task.support.labels
        return probe(features[: len(labels)], labels, queries)

    return _measured(plan, episodes, answer)


def frozen_trunk(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Measure the accuracy of class prototypes on features of the frozen trunk.

    A feature vector holds the parts that the search space pools, each of unit length. The
    checkpoint must have a trunk.
    """
    maps, trunk = Maps(plan.checkpoint.card.space), plan.checkpoint.trunk
    assert trunk is not None

    def features(rows: Tensor) -> Tensor:
        parts = [F.normalize(part, dim=1) for part in maps.features(rows)]
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    @torch.no_grad()
    def answer(job: Job, task: Task, images: list[Image]) -> Tensor:
        queries = trunk(torch.cat([task.preprocess(image) for image in images]))
        support, members = task.support, membership(task.support.labels, task.support.ways)
        rows = (features(support.images), members, features(queries))
        return PrototypeHead().logits(*rows, torch.tensor(1.0)).argmax(1)

    return _measured(plan, episodes, answer)


def _measured(plan: Plan, episodes: Sequence[int], answer: Answer) -> Iterator[Record]:
    for index in episodes:
        episode = plan.sampler.episode(index)
        job = job_of(plan.checkpoint, episode, plan.options)
        job.decode()
        if job.task is None:
            job.result()  # raises the job's error
        assert job.task is not None
        images, labels = queries_of(episode, plan.checkpoint.card.input.channels)
        right = answer(job, job.task, images) == torch.from_numpy(labels)
        accuracy = float(right.float().mean())
        yield {"episode": index, "accuracy": accuracy, "support_digest": job.task.digest}


def probe(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Label queries `(Q, D)` by logistic regression on features `(N, D)` with labels `(N,)`."""
    middle = support.mean(0)
    inputs, queried = (F.normalize(each - middle, dim=1).numpy() for each in (support, queries))
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(inputs, labels.numpy())
    labelled: NDArray[np.int64] = model.predict(queried)
    return torch.from_numpy(labelled)
