"""The memory that a support set takes in a worker, as it is estimated when it is accepted."""

import numpy as np
import pytest

from metanas.errors import InvalidInput
from metanas.spec.card import CheckpointCard, read_card
from metanas.spec.examples import Example, Limits
from metanas.testing import make_checkpoint
from metanas_server.jobs.memory import PREPARING, memory_of

COUNT = 50
SIDE = 4


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckpointCard]:
    root = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(root / "plain", channels=3, size=48)
    make_checkpoint(root / "trunk", channels=3, size=32, trunk=True)
    return {name: read_card(root / name) for name in ("plain", "trunk")}


def examples() -> list[Example]:
    """Tiny grey images, as arrays."""
    pixels = np.zeros((SIDE, SIDE, 1), np.uint8)
    return [Example("ab"[number % 2], pixels) for number in range(COUNT)]


def test_small_images_become_large_inputs(cards: dict[str, CheckpointCard]) -> None:
    given, limits = examples(), Limits()
    pixels = SIDE**2
    small = COUNT * (pixels + 3 * pixels) + PREPARING * pixels
    small += 20 * pixels  # while one is decoded
    assert memory_of(given, limits, 2**31, [cards["trunk"]]) == small
    stacked = COUNT * 8 * 3 * 48**2
    assert memory_of(given, limits, 2**31, cards.values()) == small + stacked
    with pytest.raises(InvalidInput, match="fewer or smaller images"):
        memory_of(given, limits, stacked, cards.values())
