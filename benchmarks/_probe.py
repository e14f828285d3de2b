"""Measure a linear probe on features of the frozen meta-network.

The probe is multinomial logistic regression on the support set's features by the pruned
meta-network, centred and of unit length (as in SimpleShot, arXiv:1911.04623), with the penalty of
half the squared weights that is the usual default. Nothing is adapted.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.evaluation.evaluate import job_of, queries_of, supernet_features
from metanas.evaluation.resume import Plan
from metanas.supernet.relaxations import Argmax
from metanas_data.journal import Record

ITERATIONS = 100


def probed(plan: Plan, episodes: Sequence[int]) -> Iterator[Record]:
    """The probe's accuracy on these episodes."""
    params = plan.checkpoint.params
    for index in episodes:
        episode = plan.sampler.episode(index)
        job = job_of(plan.checkpoint, episode, index, plan.options)
        job.decode()
        if isinstance(job.outcome, Exception):
            raise job.outcome
        assert job.task is not None
        images, expected = queries_of(episode, plan.checkpoint.card.input.channels)
        shown, queries = supernet_features(job, images, params, Argmax())
        labels = job.task.support.labels
        support = shown[: len(labels)]
        found = probe(support, labels, queries)
        right = found == torch.from_numpy(expected)
        yield {
            "episode": index,
            "accuracy": float(right.float().mean()),
            "support_digest": job.task.digest,
        }


def probe(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Labels `(Q,)` of queries `(Q, D)` by logistic regression on `(N, D)` and labels `(N,)`."""
    support, queries = support.double(), queries.double()
    middle = support.mean(0)
    inputs = F.normalize(support - middle, dim=1)
    weight = torch.zeros(int(labels.max()) + 1, support.shape[1] + 1, dtype=torch.double)
    weight.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=ITERATIONS, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(inputs, weight[:, :-1], weight[:, -1])
        value = F.cross_entropy(logits, labels, reduction="sum")
        value = value + 0.5 * weight[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        logits = F.linear(F.normalize(queries - middle, dim=1), weight[:, :-1], weight[:, -1])
        return logits.argmax(1)
