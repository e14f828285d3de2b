"""The control group without adaptation: a linear probe on frozen features.

It is multinomial logistic regression on the support set's features by
the pruned meta-network, centred and of unit length (as in SimpleShot, arXiv:1911.04623), with the
usual penalty of half the squared weights.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from metanas.checkpoint import Checkpoint
from metanas.evaluation.evaluate import job_of, queries_of, supernet_features
from metanas.evaluation.resume import Plan
from metanas.supernet.relaxations import Argmax
from metanas_data.journal import Record


def linear_probe(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """Measure the accuracy of a linear probe on these episodes."""
    assert isinstance(plan.checkpoint, Checkpoint)
    for index in episodes:
        episode = plan.sampler.episode(index)
        job = job_of(plan.checkpoint, episode, plan.options)
        job.decode()
        if job.task is None:
            job.result()  # raises the job's error
        assert job.task is not None
        images, labels = queries_of(episode, plan.checkpoint.card.input.channels)
        features, queries = supernet_features(job, images, plan.checkpoint.params, Argmax())
        support = job.task.support.labels
        right = probe(features[: len(support)], support, queries) == torch.from_numpy(labels)
        accuracy = float(right.float().mean())
        yield {"episode": index, "accuracy": accuracy, "support_digest": job.task.digest}


def probe(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Label queries `(Q, D)` by logistic regression on features `(N, D)` with labels `(N,)`."""
    middle = support.mean(0)
    inputs, queried = (F.normalize(each - middle, dim=1).numpy() for each in (support, queries))
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(inputs, labels.numpy())
    labelled: NDArray[np.int64] = model.predict(queried)
    return torch.from_numpy(labelled)
