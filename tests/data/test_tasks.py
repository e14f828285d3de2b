"""Episodes and views: disjoint, counted, seeded; what cannot be drawn is said in numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metanas.errors import DatasetError
from metanas.images.augment import affine_views
from metanas.spec.options import AffineRange
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import (
    Task,
    domains_of,
    draw_classes,
    groups_of,
    sample_task,
    with_mirrored,
    with_rotations,
)
from tests.core.small import noise

STILL = AffineRange(rotation=0.0, shift=0.0, scale=0.0, shear=0.0)


def numbered(classes: int, images: int) -> Classes:
    """Every image is of one value, its own: (class, image) as two pixels."""
    return {
        f"c{index}": np.array([[[[index, image]]] for image in range(images)], dtype=np.uint8)
        for index in range(classes)
    }


def values(images: NDArray[np.uint8]) -> list[tuple[int, int]]:
    return [(int(image[0, 0, 0]), int(image[0, 0, 1])) for image in images]


@st.composite
def episodes(draw: st.DrawFn) -> tuple[Task, int, int, int, int]:
    ways, shots, queries = (draw(st.integers(1, 6)) for _ in range(3))
    data = numbered(ways + draw(st.integers(0, 4)), shots + queries + draw(st.integers(0, 3)))
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    episode = sample_task(data, ways=ways, shots=shots, queries=queries, random=random)
    return episode, ways, shots, queries, seed


@given(episodes())
def test_counts_labels_and_no_image_twice(drawn: tuple[Task, int, int, int, int]) -> None:
    episode, ways, shots, queries, _ = drawn
    support, query = values(episode.support), values(episode.query)
    assert len(set(support + query)) == len(support) + len(query) == ways * (shots + queries)
    assert np.bincount(episode.support_labels).tolist() == [shots] * ways
    assert np.bincount(episode.query_labels).tolist() == [queries] * ways
    assert len(set(episode.classes)) == ways
    for images, labels in ((support, episode.support_labels), (query, episode.query_labels)):
        named = [int(episode.classes[label].removeprefix("c")) for label in labels]
        assert [way for way, _ in images] == named


@given(seed=st.integers(0, 2**32))
def test_episodes_come_from_their_seed_alone(seed: int) -> None:
    one, same = (
        sample_task(data, ways=5, shots=2, queries=3, random=np.random.default_rng(seed))
        for data in (numbered(9, 8), numbered(9, 8))
    )
    assert one.classes == same.classes
    assert np.array_equal(one.support, same.support)
    assert np.array_equal(one.query, same.query)


def test_every_class_and_image_has_its_turn() -> None:
    data, random = numbered(4, 3), np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        seen |= set(values(sample_task(data, ways=2, shots=1, queries=1, random=random).query))
    assert len(seen) == 12


def test_too_few_classes() -> None:
    with pytest.raises(DatasetError) as caught:
        sample_task(numbered(3, 9), ways=5, shots=1, queries=1, random=np.random.default_rng(0))
    assert caught.value.reason == "DATASET_TOO_FEW_CLASSES"
    assert {"5", "3"} <= set(str(caught.value).replace("-", " ").split())


def test_too_few_images() -> None:
    data = {**numbered(2, 9), "c1": numbered(2, 4)["c1"]}
    with pytest.raises(DatasetError) as caught:
        sample_task(data, ways=2, shots=3, queries=2, random=np.random.default_rng(0))
    assert caught.value.reason == "DATASET_TOO_FEW_IMAGES"
    assert "'c1' has 4" in str(caught.value)
    assert "5 images" in str(caught.value)


def test_rotations_are_classes_of_their_own() -> None:
    data = {"a": np.arange(2 * 1 * 3 * 3, dtype=np.uint8).reshape(2, 1, 3, 3)}
    turned = with_rotations(data)
    assert list(turned) == ["0/a", "90/a", "180/a", "270/a"]
    assert np.array_equal(turned["0/a"], data["a"])
    for turn in range(1, 4):
        expected = np.stack([[np.rot90(image[0], turn)] for image in data["a"]])
        assert np.array_equal(turned[f"{90 * turn}/a"], expected)


def test_mirrored_classes_are_classes_of_their_own_in_groups_of_their_own() -> None:
    data = {"Greek/alpha": np.arange(2 * 1 * 3 * 3, dtype=np.uint8).reshape(2, 1, 3, 3)}
    seen = with_mirrored(data)
    assert list(seen) == ["Greek/alpha", "mirrored/Greek/alpha"]
    assert np.array_equal(seen["Greek/alpha"], data["Greek/alpha"])
    expected = np.stack([[np.fliplr(image[0])] for image in data["Greek/alpha"]])
    assert np.array_equal(seen["mirrored/Greek/alpha"], expected)
    assert [group.tolist() for group in groups_of(seen)] == [[0], [1]]


def test_a_group_is_what_names_have_before_their_last_slash() -> None:
    names = ["0/Greek/alpha", "0/Greek/beta", "90/Greek/alpha", "plain", "0/Greek/gamma", "too"]
    assert [group.tolist() for group in groups_of(names)] == [[0, 1, 4], [2], [3, 5]]


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(0, 5),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_classes_of_a_task_come_from_few_groups(
    sizes: list[int], most: int, seed: int, drawing: st.DataObject
) -> None:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    groups = [np.flatnonzero(owner == group) for group in range(len(sizes))]
    ways = drawing.draw(st.integers(1, len(owner)))
    chosen = draw_classes([groups], ways, most, np.random.default_rng(seed))
    assert len(set(chosen)) == ways
    # as many of the smallest groups as it takes are the most that can be needed
    needed = int(np.searchsorted(np.cumsum(sorted(sizes)), ways)) + 1
    assert len(set(owner[chosen])) <= (max(most, needed) if most else len(sizes))


def test_every_group_and_number_of_groups_has_its_turn() -> None:
    groups, random = [np.arange(4), np.arange(4, 8), np.arange(8, 12)], np.random.default_rng(0)
    drawn = [set(draw_classes([groups], 3, 2, random) // 4) for _ in range(80)]
    assert {len(each) for each in drawn} == {1, 2}
    assert set.union(*drawn) == {0, 1, 2}


def test_a_task_is_of_one_data_set_and_each_has_its_turn() -> None:
    """However many groups and classes a data set has: alphabets do not outweigh photographs."""
    alphabets = [f"omniglot/{alphabet}/{letter}" for alphabet in range(9) for letter in range(4)]
    names = [*alphabets, *(f"photos/{thing}" for thing in range(5))]
    domains = domains_of(names, several=True)
    assert [len(domain) for domain in domains] == [9, 1]
    random = np.random.default_rng(0)
    drawn = [
        {names[place].partition("/")[0] for place in draw_classes(domains, 5, 2, random)}
        for _ in range(400)
    ]
    assert all(len(each) == 1 for each in drawn)
    assert 160 < drawn.count({"photos"}) < 240
    (together,) = domains_of(names, several=False)
    assert [len(group) for group in together] == [4] * 9 + [5]


def test_views_without_range_are_the_images() -> None:
    images = noise(4, 2, 9, 9)
    views = affine_views(images, STILL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(views, images, atol=1e-5, rtol=1e-5)


def test_views_come_from_their_generator_and_differ_from_image_to_image() -> None:
    images = noise(1, 1, 12, 12).expand(3, 1, 12, 12)
    one, same, other = (
        affine_views(images, AffineRange(), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_a_view_turns_and_shifts_no_further_than_its_range() -> None:
    """The centre of mass of a spot moves by at most the shift, in pixels."""
    images = torch.zeros(200, 1, 21, 21)
    images[:, :, 9:12, 9:12] = 1.0
    ranges = AffineRange(rotation=10.0, shift=0.1, scale=0.1, shear=0.1)
    views = affine_views(images, ranges, torch.Generator().manual_seed(0))
    mass = views / views.sum((2, 3), keepdim=True)
    grid = torch.arange(21.0)
    moved = torch.stack([(mass.sum(3) * grid).sum(2), (mass.sum(2) * grid).sum(2)]).squeeze() - 10
    assert float(moved.abs().max()) < 0.1 * 21 * 1.4
    assert float(moved.abs().max()) > 1.0
    assert float(views.amax()) <= 1.0 + 1e-6
