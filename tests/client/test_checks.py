"""Requests that the server would refuse are refused before the upload."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metanas_client import Checkpoint, Client, InvalidInput, NotFound
from metanas_client.checks import check_sizes, choose_checkpoint
from metanas_client.support import read_support
from tests.client.conftest import class_folders, running_server

PIXELS = np.zeros((2, 30, 30, 1), np.uint8)


@pytest.fixture
def tiny(server: str) -> Checkpoint:
    with Client(server) as client:
        return client.checkpoint("tiny")


def test_a_checkpoint_is_chosen_by_name_or_alone(tiny: Checkpoint) -> None:
    other = replace(tiny, name="checkpoints/omniglot", description="drawn characters")
    universal = replace(tiny, name="checkpoints/universal")
    assert choose_checkpoint([tiny], "") == tiny
    assert choose_checkpoint([other, universal, tiny], "") == universal
    assert choose_checkpoint([tiny, other], "omniglot") == other
    assert choose_checkpoint([tiny, other], "checkpoints/tiny") == tiny
    with pytest.raises(InvalidInput, match=r"name one .*tiny .*omniglot \(drawn characters\)"):
        choose_checkpoint([tiny, other], "")
    with pytest.raises(NotFound, match="Did you mean omniglot"):
        choose_checkpoint([tiny, other], "omniglt")
    with pytest.raises(NotFound, match="no checkpoint"):
        choose_checkpoint([], "")


def test_the_bytes_of_all_images_have_a_limit(tiny: Checkpoint) -> None:
    support = read_support({"a": PIXELS, "b": PIXELS})
    check_sizes(support, replace(tiny.limits, max_total_bytes=3600))
    with pytest.raises(InvalidInput) as caught:
        check_sizes(support, replace(tiny.limits, max_total_bytes=3599))
    assert caught.value.reason == "TOO_MANY_BYTES"


def test_a_support_set_has_limits_of_classes_and_images(tiny: Checkpoint) -> None:
    support = read_support({"a": PIXELS, "b": PIXELS, "c": PIXELS})
    limits = replace(tiny.limits, max_ways=2, max_examples=5, max_shots=1)
    with pytest.raises(InvalidInput) as caught:
        check_sizes(support, limits)
    reasons = [violation.reason for violation in caught.value.violations]
    assert reasons == ["TOO_MANY_WAYS", "TOO_MANY_EXAMPLES", *["TOO_MANY_SHOTS"] * 3]


def test_sizes_are_checked_before_a_file_is_read(server: str, tmp_path: Path) -> None:
    support = class_folders(tmp_path / "support", 2, 2)
    with (support / "class0" / "0.png").open("wb") as file:
        file.truncate(2**36)  # more than the memory
    with Client(server) as client, pytest.raises(InvalidInput, match=r"68719\.5 MB"):
        client.adapt(support)


def test_every_image_above_the_limit_is_named_before_the_upload(
    checkpoints: Path, tmp_path: Path
) -> None:
    support = class_folders(tmp_path / "support", 2, 2)
    large = [support / "class0" / "1.png", support / "class1" / "0.png"]
    for path in large:
        path.write_bytes(bytes(3 * 2**20))
    with (
        running_server(checkpoints, tmp_path / "data", "--max-image-bytes", 2**20) as address,
        Client(address) as client,
    ):
        with pytest.raises(InvalidInput) as caught:
            client.adapt(support)
        assert list(client.adaptations()) == []
    assert {violation.reason for violation in caught.value.violations} == {"IMAGE_TOO_LARGE"}
    assert [violation.source for violation in caught.value.violations] == list(map(str, large))
    assert "3.1 MB" in str(caught.value)
