"""Control groups: class prototypes on the frozen trunk, and a linear probe on frozen features.

Nothing is adapted. The probe is multinomial logistic regression on the support set's features by
the pruned meta-network, centred and of unit length (as in SimpleShot, arXiv:1911.04623), with the
usual penalty of half the squared weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def linear_probe(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Measure the accuracy of a linear probe on these episodes."""
    for case in _decoded(plan, episodes):
        features, queries = supernet_features(
            case.job, case.queries, plan.checkpoint.params, Argmax()
        )
        labels = case.task.support.labels
        yield case.record(probe(features[: len(labels)], labels, queries))


@torch.no_grad()
def frozen_trunk(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Measure the accuracy of class prototypes on features of the frozen trunk.

    A feature vector holds the parts that the search space pools, each of unit length. The
    checkpoint must have a
    trunk.
    """
    maps, trunk = Maps(plan.checkpoint.card.space), plan.checkpoint.trunk
    assert trunk is not None

    def features(rows: Tensor) -> Tensor:
        parts = [F.normalize(part, dim=1) for part in maps.features(rows)]
        return F.normalize(torch.cat(parts, dim=1), dim=1)

    for case in _decoded(plan, episodes):
        pixels = torch.cat([case.task.preprocess(image) for image in case.queries])
        support, queries = features(case.task.support.images), features(trunk(pixels))
        members = membership(case.task.support.labels, case.task.support.ways)
        logits = PrototypeHead().logits(support, members, queries, torch.tensor(1.0))
        yield case.record(logits.argmax(1))


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An episode with its decoded support set and queries."""

    index: int
    job: Job
    task: Task
    queries: list[Image]
    labels: Tensor
    """Labels `(Q,)` of the queries."""

    def record(self, answers: Tensor) -> Record:
        """Return the record of these answers `(Q,)`."""
        accuracy = float((answers == self.labels).float().mean())
        return {"episode": self.index, "accuracy": accuracy, "support_digest": self.task.digest}


def _decoded(plan: Plan, episodes: Sequence[int]) -> Iterator[Decoded]:
    for index in episodes:
        episode = plan.sampler.episode(index)
        job = job_of(plan.checkpoint, episode, plan.options)
        job.decode()
        if job.task is None:
            job.result()  # raises the job's error
        assert job.task is not None
        queries, labels = queries_of(episode, plan.checkpoint.card.input.channels)
        yield Decoded(
            index=index,
            job=job,
            task=job.task,
            queries=queries,
            labels=torch.from_numpy(labels),
        )


def probe(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Label queries `(Q, D)` by logistic regression on features `(N, D)` with labels `(N,)`."""
    middle = support.mean(0)
    inputs, queried = (F.normalize(each - middle, dim=1).numpy() for each in (support, queries))
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(inputs, labels.numpy())
    labelled: NDArray[np.int64] = model.predict(queried)
    return torch.from_numpy(labelled)
