"""The branches of a universal model: pruned, one size of a trunk, and a branch beside another."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from metanas.adaptation.metrics import meta_features
from metanas.adaptation.universal import branches_of, load_universal, network_of
from metanas.checkpoint import load_checkpoint
from metanas.errors import InvalidInput
from metanas.images.support_set import SupportSet
from metanas.spec.universal import Branch, UniversalConfig
from metanas.util.work import whole
from tests.core.test_universal import BRANCHES, OPTIONS
from tests.core.test_universal import folder as folder


def test_the_last_block_alone_is_the_mean_of_its_outputs_of_length_one(folder: Path) -> None:
    checkpoint = load_checkpoint(folder / "colour")
    network = network_of(checkpoint, BRANCHES["last"])
    assert (network.card.space.features, checkpoint.trunk) == (40, network.trunk)
    assert network.trunk is not None
    rows = network.trunk(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    labels = torch.zeros(3, dtype=torch.long)
    features = whole(meta_features(network, SupportSet(rows, labels, ("a",)), OPTIONS))
    torch.testing.assert_close(features, F.normalize(rows[:, -40:], dim=1))


def test_the_last_block_needs_a_trunk(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"last_block.*pretrained trunk"):
        network_of(load_checkpoint(folder / "grey"), Branch(checkpoint="grey", last_block=True))


@pytest.mark.parametrize("beside", ["none", "two", "one"])
def test_a_branch_is_beside_one_with_a_share_of_its_own(beside: str) -> None:
    others = {"one": beside, "two": "three", "three": ""}
    branches = {name: Branch(checkpoint="a", beside=each) for name, each in others.items()}
    with pytest.raises(InvalidInput, match="must be beside a branch"):
        UniversalConfig(branches=branches, defaults=OPTIONS)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"large": 0.9, "grey": 0.1}, {"large": 0.5, "last": 0.5}),
        ({"small": 0.55, "large": 0.33, "grey": 0.12}, {"large": 0.5, "last": 0.5}),
        ({"small": 0.3, "large": 0.3, "grey": 0.4}, {"large": 0.6, "grey": 0.4}),
        ({"small": 0.5, "large": 0.25, "frozen": 0.25}, {"large": 0.75, "frozen": 0.25}),
        ({"large": 0.5, "frozen": 0.5}, {"large": 0.5, "frozen": 0.5}),
        ({"small": 0.9, "grey": 0.1}, {"small": 1.0}),
        ({"small": 0.5, "grey": 0.5}, {"small": 0.5, "grey": 0.5}),
    ],
)
def test_the_branches_of_a_model(
    folder: Path, shares: dict[str, float], expected: dict[str, float]
) -> None:
    """The larger size takes both shares; `last` is beside `large` alone."""
    space = load_universal(folder)
    given = {name: shares.get(name, 0.0) for name in BRANCHES}
    assert branches_of(space.universal, given) == pytest.approx(expected)
