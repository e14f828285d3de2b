"""What is measured of an adaptation, and evaluation in process."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.checkpoint import Checkpoint
from metanas.errors import DatasetError
from metanas.evaluate import EpisodeShape, Outcome, evaluate, mean_of
from metanas.genotype import Genotype, Node
from metanas.measure import MacCounter, leave_one_out
from metanas.network import DiscreteNetwork
from metanas.ops import OPS
from metanas.options import AdaptConfig
from metanas.support import SupportSet
from metanas.testing import freeze, make_checkpoint
from tests.core.small import TINY, synthetic

OPTIONS = AdaptConfig(steps=2, tuning_steps=2, weight_lr=0.01, alpha_lr=0.1)
SHAPE = EpisodeShape(ways=3, shots=2, queries=2)


def features_of(values: list[float], labels: list[int]) -> tuple[torch.Tensor, SupportSet]:
    features = torch.tensor(values)[:, None]
    classes = tuple(str(label) for label in range(max(labels) + 1))
    return features, SupportSet(torch.zeros(len(values), 1, 8, 8), torch.tensor(labels), classes)


def test_leave_one_out_classifies_by_prototypes_without_the_image() -> None:
    features, task = features_of([0.0, 1.0, 9.0, 10.0, 4.0], [0, 0, 1, 1, 1])
    # without itself, 4.0 is nearer to 0.5 than to 9.5; the others are right
    assert leave_one_out(features, task, torch.tensor(1.0)) == pytest.approx(0.8)


def test_classes_of_one_image_take_no_part() -> None:
    features, task = features_of([0.0, 5.0, 6.0], [0, 1, 1])
    assert leave_one_out(features, task, torch.tensor(1.0)) == 1.0


def test_multiply_accumulates_are_counted() -> None:
    space = replace(TINY, channels=(4,), reductions=(), nodes=1, stem_channels=6, stem_stride=1)
    node: Node = ((0, "conv_3x3"), (1, "skip_connect"))
    network = DiscreteNetwork(space, Genotype((node,), (node,)), OPS)
    freeze(network)
    pixel = 1 * 9 * 6 + 2 * (6 * 4) + (9 * 4 + 4 * 4)  # stem, two inputs, depthwise and pointwise
    counter = MacCounter()
    with counter.watching(network):
        network(torch.zeros(3, 1, 10, 10))
    assert counter.total == 3 * 100 * pixel
    network(torch.zeros(1, 1, 10, 10))  # nobody watches any more
    assert counter.total == 3 * 100 * pixel


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=12, options=OPTIONS)


def test_evaluation_is_of_exported_files_and_seeded(checkpoint: Checkpoint) -> None:
    classes, seen = synthetic(6, 5), list[int]()
    outcomes = evaluate(
        checkpoint,
        classes,
        SHAPE,
        episodes=3,
        seed=1,
        options=OPTIONS,
        on_episode=lambda index, outcome: seen.append(index),
    )
    assert seen == [0, 1, 2]
    for outcome in outcomes:
        assert outcome.report.shots == (2, 2, 2)
        for value in (outcome.accuracy, outcome.soft):
            assert value * 6 == pytest.approx(round(value * 6))
    assert np.mean([outcome.accuracy for outcome in outcomes]) > 0.5  # easy classes

    def facts(outcome: Outcome) -> tuple[float, float, str]:
        return outcome.accuracy, outcome.soft, outcome.report.support_digest

    first = evaluate(checkpoint, classes, SHAPE, episodes=1, seed=1, options=OPTIONS)
    assert facts(first[0]) == facts(outcomes[0])
    stacked = evaluate(checkpoint, classes, SHAPE, episodes=3, seed=1, options=OPTIONS, together=2)
    assert [facts(one) for one in stacked] == [facts(other) for other in outcomes]
    assert len({facts(outcome)[2] for outcome in outcomes}) == 3


def test_episodes_that_the_data_cannot_give(checkpoint: Checkpoint) -> None:
    with pytest.raises(DatasetError):
        evaluate(checkpoint, synthetic(2, 5), SHAPE, episodes=1, seed=0, options=OPTIONS)


def test_the_mean_has_its_interval() -> None:
    mean = mean_of([0.0, 1.0, 1.0, 1.0])
    assert mean.mean == 0.75
    assert mean.interval == pytest.approx(1.96 * 0.5 / 2)
    assert math.isnan(mean_of([1.0]).interval)
