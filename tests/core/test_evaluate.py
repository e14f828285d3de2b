"""Evaluation in process: what is measured, what is stored, and what is compared."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.adaptation.scheduler import make_all
from metanas.checkpoint import Checkpoint
from metanas.evaluation.compare import compare, paired
from metanas.evaluation.evaluate import (
    Outcome,
    evaluate,
    job_of,
    queries_of,
    supernet_logits,
)
from metanas.evaluation.resume import Plan, run_plan
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.spec.options import AdaptConfig
from metanas.supernet.discrete import freeze_statistics, from_supernet
from metanas.supernet.relaxations import Argmax
from metanas.testing import make_checkpoint
from metanas.util.work import whole
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from metanas_data.errors import EvaluationError
from metanas_data.evaluations import StoredEvaluation, read_evaluation
from tests.core.small import dataset, synthetic

OPTIONS = AdaptConfig(steps=2, tuning_steps=2, weight_lr=0.01, alpha_lr=0.1)
SHAPE = EpisodeShape(ways=3, shots=2, queries=2)
DATA = dataset(synthetic(6, 5))
SAMPLER = Sampler(DATA, SHAPE, 1)
SETTINGS = {"dataset_digest": "d", "split": "val", "ways": 3, "shots": 2, "queries": 2, "seed": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    return make_checkpoint(folder, size=12, options=OPTIONS)


def outcomes(checkpoint: Checkpoint, count: int, **changes: object) -> list[Outcome]:
    arguments = {"episodes": range(count), "options": OPTIONS, **changes}
    return [one for _, one in evaluate(checkpoint, SAMPLER, **arguments)]  # type: ignore[arg-type]


def facts(outcome: Outcome) -> tuple[float, float | None, float | None, str]:
    return outcome.accuracy, outcome.pruned, outcome.soft, outcome.report.support_digest


def test_evaluation_is_of_exported_files_and_seeded(checkpoint: Checkpoint) -> None:
    found = outcomes(checkpoint, 3)
    for outcome in found:
        assert outcome.report.shots == (2, 2, 2)
        for value in (outcome.accuracy, outcome.pruned, outcome.soft):
            assert value is not None
            assert value * 6 == pytest.approx(round(value * 6))
        assert outcome.query_seconds > 0
        assert outcome.transductive is None
    assert np.mean([outcome.accuracy for outcome in found]) > 0.5  # easy classes
    later = list(evaluate(checkpoint, SAMPLER, episodes=range(2, 3), options=OPTIONS))
    assert [(index, facts(one)) for index, one in later] == [(2, facts(found[2]))]
    stacked = outcomes(checkpoint, 3, together=2)
    assert [facts(one) for one in stacked] == [facts(other) for other in found]
    assert len({facts(outcome)[3] for outcome in found}) == 3


def test_transduction_takes_the_statistics_of_all_images(checkpoint: Checkpoint) -> None:
    episode = SAMPLER.episode(0)
    job = job_of(checkpoint, episode, OPTIONS)
    make_all([job])
    assert job.task is not None
    assert job.adaptation is not None
    params, (queries, _) = job.adaptation.optimizer.snapshot(), queries_of(episode, 1)
    support = job.task.support
    images = torch.cat([support.images, *(job.task.preprocess(image) for image in queries)])
    network = from_supernet(checkpoint.card.space, params, job.result().genotype, checkpoint.ops)
    members = membership(support.labels, support.ways)
    for transductive, statistics in ((True, images), (False, support.images)):
        whole(freeze_statistics(network, statistics, len(statistics)))
        features = network(images).split([6, 6])
        expected = PrototypeHead().logits(
            features[0], members, features[1], params["head.log_scale"].exp()
        )
        found = supernet_logits(job, queries, params, Argmax(), transductive=transductive)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        network = from_supernet(
            checkpoint.card.space, params, job.result().genotype, checkpoint.ops
        )
    [outcome] = outcomes(checkpoint, 1, transductive=True)
    assert outcome.transductive is not None


def stored(accuracies: list[float], **changes: object) -> StoredEvaluation:
    episodes = tuple({"episode": i, "accuracy": value} for i, value in enumerate(accuracies))
    return StoredEvaluation({**SETTINGS, **changes}, episodes)


def test_a_comparison_is_paired() -> None:
    found = compare(stored([0.9, 0.5, 0.7, 0.6]), stored([0.8, 0.6, 0.7]))
    assert (found.won, found.lost, found.tied, found.episodes) == (1, 1, 1, 3)
    assert found.difference.mean == pytest.approx(0.0)
    assert found.difference.sign == 0
    # far apart from episode to episode, but one is better by much the same in each
    better = paired([0.2, 0.55, 0.9, 0.4], [0.1, 0.44, 0.8, 0.29])
    assert better.difference.interval < 0.02
    assert better.difference.sign == 1
    assert paired([0.1, 0.2], [0.3, 0.4]).difference.sign == -1


@pytest.mark.parametrize(
    ("other", "reason", "named"),
    [
        (stored([0.5, 0.5], seed=1), "EPISODES_DIFFER", "seed: 0 and 1"),
        (stored([0.5, 0.5], split="test"), "EPISODES_DIFFER", "split"),
        (stored([0.5, 0.5], dataset_digest="e"), "EPISODES_DIFFER", "dataset_digest"),
        (stored([0.5, 0.5], ways=5), "EPISODES_DIFFER", "ways: 3 and 5"),
        (stored([0.5]), "TOO_FEW_EPISODES", "at least 2"),
    ],
)
def test_what_cannot_be_compared(other: StoredEvaluation, reason: str, named: str) -> None:
    with pytest.raises(EvaluationError, match=named) as error:
        compare(stored([0.5, 0.6]), other)
    assert error.value.reason == reason


def test_support_sets_of_one_seed_may_differ_all_the_same() -> None:
    one, other = (
        StoredEvaluation(
            SETTINGS, tuple({"episode": i, "accuracy": 1, "support_digest": d} for i in (0, 1))
        )
        for d in "ab"
    )
    with pytest.raises(EvaluationError, match="support_digest"):
        compare(one, other)


def plan(checkpoint: Checkpoint) -> Plan:
    return Plan(
        checkpoint=checkpoint,
        sampler=SAMPLER,
        episodes=2,
        options=OPTIONS,
        transductive=True,
    )


def test_what_was_stored_is_read_again(checkpoint: Checkpoint, tmp_path: Path) -> None:
    done = list[int]()
    records = run_plan(plan(checkpoint), tmp_path / "a.json", on_episode=done.append)
    assert done == [1, 2]
    again = read_evaluation(tmp_path / "a.json")
    assert again == StoredEvaluation(plan(checkpoint).settings(), json.loads(json.dumps(records)))
    assert again.column("accuracy") == [one.accuracy for one in outcomes(checkpoint, 2)]
    assert again.episodes[0]["genotype"].keys() == {"normal", "reduce"}
    summary = json.loads((tmp_path / "a.json").read_text())["summary"]
    assert summary["accuracy"] == pytest.approx(np.mean(again.column("accuracy")))
    assert summary["interval95_transductive"] >= 0
    assert compare(again, again).tied == 2
