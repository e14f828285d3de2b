"""Control groups: a linear probe, and class prototypes on the frozen trunk."""

from pathlib import Path

import numpy as np
import torch

from metanas.evaluation.resume import Plan
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_data.datasets.dataset import Dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from studies.controls import probe


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


def test_the_probe_separates_classes_by_direction() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(4)
    support = 4 * torch.eye(6)[labels] + torch.randn(12, 6, generator=random)
    queries = 8 * torch.eye(6)[:3] + 5
    assert probe(support + 5, labels, queries).tolist() == [0, 1, 2]
