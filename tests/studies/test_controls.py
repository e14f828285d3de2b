"""Control groups: a linear probe, and class prototypes on the frozen trunk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.evaluation.resume import Plan
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_data.datasets.dataset import Dataset, Image
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from studies.controls import frozen_trunk, linear_probe, probe


def plan_of(folder: Path) -> Plan:
    """Episodes of noisy photographs, for a checkpoint with a trunk."""
    options = AdaptConfig(steps=0, tuning_steps=0)
    checkpoint = make_checkpoint(folder, channels=3, size=32, trunk=True, options=options)
    random = np.random.default_rng(0)
    classes = {
        str(way): tuple(
            (pattern + random.uniform(0, 100, (32, 32, 3))).astype(np.uint8) for _ in range(8)
        )
        for way, pattern in enumerate(random.uniform(0, 150, (4, 32, 32, 3)))
    }
    dataset = Dataset(name="noise", split=None, classes=classes)
    sampler = Sampler(dataset, EpisodeShape(ways=3, shots=2, queries=4), 0)
    return Plan(checkpoint=checkpoint, sampler=sampler, episodes=3, options=options)


def test_the_frozen_trunk_is_nearest_prototype_by_its_last_map(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "photo")
    trunk, spec = plan.checkpoint.trunk, plan.checkpoint.card.input
    assert trunk is not None
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))

    def feature(image: Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.asarray(image)).permute(2, 0, 1) / 255
        maps: torch.Tensor = trunk.maps.unpack(trunk(((pixels - mean) / std)[None]))[1]
        return torch.nn.functional.normalize(maps.mean((2, 3)), dim=1)

    for record in frozen_trunk(plan, range(2)):
        episode = plan.sampler.episode(record["episode"])
        support = [torch.cat([*map(feature, images)]) for images in episode.support.values()]
        prototypes = torch.stack([features.mean(0) for features in support])
        right = [
            int(torch.cdist(feature(image), prototypes).argmin()) == way
            for way, images in enumerate(episode.queries.values())
            for image in images
        ]
        assert record["accuracy"] == pytest.approx(np.mean(right))


def test_the_probe_is_measured_on_the_same_support_sets(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "photo")
    one, other = list(linear_probe(plan, range(2))), list(frozen_trunk(plan, range(2)))
    digests = [[record["support_digest"] for record in records] for records in (one, other)]
    assert digests[0] == digests[1]
    assert all(0 <= record["accuracy"] <= 1 for record in one)


def test_the_probe_separates_classes_by_direction() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(4)
    support = 4 * torch.eye(6)[labels] + torch.randn(12, 6, generator=random)
    queries = 8 * torch.eye(6)[:3] + 5
    assert probe(support + 5, labels, queries).tolist() == [0, 1, 2]
