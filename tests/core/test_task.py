"""The checks of a support set that need no pixels, and the errors they raise."""

import pickle
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanas.errors import (
    MAX_VIOLATIONS,
    Cancelled,
    CheckpointError,
    DatasetError,
    Diverged,
    ExportMismatch,
    InvalidInput,
    MetanasError,
    UnknownName,
    Violation,
)
from metanas.spec.examples import Example, Limits, check_examples, decode_label

PIXELS = np.zeros((4, 4, 3), dtype=np.uint8)


def examples(*labels: str) -> list[Example]:
    return [Example(label, PIXELS) for label in labels]


def findings(
    given_examples: list[Example], classes: list[str] | None = None, limits: Limits | None = None
) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        check_examples(given_examples, limits or Limits(), classes)
    assert caught.value.reason == caught.value.violations[0].reason
    return [(v.field, v.reason) for v in caught.value.violations]


def test_a_sound_task_passes() -> None:
    check_examples(examples("cat", "dog", "cat"), Limits())
    check_examples(examples("cat", "dog", "cat"), Limits(), ["dog", "cat"])
    check_examples(examples("猫", "chien", "猫"), Limits())


def test_no_examples() -> None:
    assert findings([]) == [("examples", "NO_EXAMPLES")]
    assert findings([], ["cat", "dog"]) == [("examples", "NO_EXAMPLES")]


def test_one_class_only() -> None:
    assert findings(examples("cat", "cat")) == [("examples", "ONE_CLASS")]


def test_a_declared_class_without_examples_is_named_by_its_index() -> None:
    found = findings(examples("cat", "dog"), ["cat", "dog", "fox"])
    assert found == [("classes[2]", "CLASS_WITHOUT_EXAMPLES")]


def test_a_label_outside_the_declared_classes() -> None:
    found = findings(examples("cat", "dog", "fox"), ["cat", "dog"])
    assert found == [("examples[2].label", "LABEL_UNKNOWN")]


def test_a_class_declared_twice() -> None:
    found = findings(examples("cat", "dog"), ["cat", "dog", "cat"])
    assert found == [("classes[2]", "DUPLICATE_LABEL")]


@pytest.mark.parametrize(
    ("classes", "field"),
    [(None, "examples[1].label"), (["caf\u00e9", "cafe\u0301"], "classes[1]")],
)
def test_a_class_in_two_unicode_forms(classes: list[str] | None, field: str) -> None:
    support = examples("caf\u00e9", "cafe\u0301", "cafe\u0301")
    assert findings(support, classes) == [(field, "DUPLICATE_LABEL")]


@pytest.mark.parametrize("empty", ["", " ", "\t\n", "\u3000"])
def test_empty_labels(empty: str) -> None:
    assert findings(examples("cat", "dog", empty)) == [("examples[2].label", "LABEL_EMPTY")]


def test_labels_are_measured_in_bytes() -> None:
    limits = Limits(max_label_bytes=6)
    check_examples(examples("猫猫", "dog"), limits)
    assert findings(examples("猫猫猫", "dog"), limits=limits) == [
        ("examples[0].label", "LABEL_TOO_LONG")
    ]


def test_a_label_that_no_file_name_in_utf8_can_give() -> None:
    surrogate = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert findings(examples(surrogate, "dog")) == [("examples[0].label", "LABEL_NOT_UTF8")]


@pytest.mark.parametrize(
    ("limits", "field", "reason"),
    [
        (Limits(max_ways=2), "examples", "TOO_MANY_WAYS"),
        (Limits(max_shots=1), "examples", "TOO_MANY_SHOTS"),
        (Limits(max_examples=3), "examples", "TOO_MANY_EXAMPLES"),
        (Limits(max_total_bytes=100), "examples", "TOO_MANY_BYTES"),
    ],
)
def test_limits_of_the_whole(limits: Limits, field: str, reason: str) -> None:
    assert findings(examples("cat", "dog", "fox", "fox"), limits=limits) == [(field, reason)]


def test_exactly_at_the_limits_passes() -> None:
    limits = Limits(max_ways=2, max_shots=2, max_examples=4, max_total_bytes=4 * 48)
    check_examples(examples("cat", "dog", "cat", "dog"), limits)


def test_sizes_of_single_images() -> None:
    task = [Example("cat", b"x" * 20), Example("dog", b"x"), Example("dog", PIXELS)]
    assert findings(task, limits=Limits(max_image_bytes=19)) == [
        ("examples[0].image", "IMAGE_TOO_LARGE"),
        ("examples[2].image", "IMAGE_TOO_LARGE"),
    ]


def test_everything_wrong_is_reported_at_once() -> None:
    task = [*examples("cat", "", "cat"), Example("dog", b"x" * 60)]
    limits = Limits(max_shots=1, max_image_bytes=50)
    found = findings(task, ["cat", "dog", "dog"], limits)
    assert found == [
        ("classes[2]", "DUPLICATE_LABEL"),
        ("examples[1].label", "LABEL_UNKNOWN"),
        ("examples", "TOO_MANY_SHOTS"),
        ("examples[1].label", "LABEL_EMPTY"),
        ("examples[3].image", "IMAGE_TOO_LARGE"),
    ]


def test_a_flood_of_violations_is_counted_not_listed() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_examples([Example(" " * i, b"x") for i in range(1, 71)], Limits())
    assert len(caught.value.violations) == MAX_VIOLATIONS
    assert caught.value.omitted == 50
    assert str(caught.value).endswith("and 67 more")


@given(st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=3)), max_size=12))
def test_whatever_comes_in_it_passes_or_is_invalid_input(pairs: list[tuple[str, bytes]]) -> None:
    with suppress(InvalidInput):
        check_examples([Example(label, image) for label, image in pairs], Limits())
        assert len({label for label, _ in pairs}) > 1
        assert all(label.strip() for label, _ in pairs)


def test_an_empty_image_file_is_named_with_the_other_faults() -> None:
    support = [Example("a", b"x"), Example(" ", b"x"), Example("b", b"")]
    with pytest.raises(InvalidInput) as caught:
        check_examples(support, Limits())
    assert [(v.field, v.reason) for v in caught.value.violations] == [
        ("examples[1].label", "LABEL_EMPTY"),
        ("examples[2].image", "IMAGE_UNREADABLE"),
    ]
    check_examples(support[::2], Limits())  # decoding finds it with all other unreadable images


@given(st.binary(max_size=40))
def test_raw_labels_are_utf8_or_refused(raw: bytes) -> None:
    with suppress(InvalidInput):
        assert decode_label(raw, 3).encode("utf-8") == raw


def test_a_label_in_another_encoding_is_refused_with_its_index() -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_label("café".encode("latin-1"), 3)
    assert [(v.field, v.reason) for v in caught.value.violations] == [
        ("examples[3].label", "LABEL_NOT_UTF8")
    ]


def test_limits_are_checked_themselves() -> None:
    with pytest.raises(InvalidInput) as caught:
        Limits(max_ways=1, max_pixels=0)
    assert [v.field for v in caught.value.violations] == ["max_ways", "max_pixels"]
    assert caught.value.reason == "OPTION_OUT_OF_RANGE"


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput([Violation(f"examples[{i}]", "NO", "no") for i in range(30)]),
        InvalidInput.single("image", "IMAGE_FORMAT", "no image"),
        UnknownName("checkpoint", "foo", ["bar", "baz"]),
        CheckpointError("CHECKPOINT_DAMAGED", "bit flipped"),
        DatasetError("DATASET_EMPTY", "nothing there"),
        Cancelled(),
        Diverged(),
        ExportMismatch("logits differ by 0.1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_the_way_to_another_process(error: MetanasError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_an_unknown_name_lists_the_known_ones() -> None:
    error = UnknownName("checkpoint", "foo", ["bar", "baz"])
    assert error.reason == "UNKNOWN_CHECKPOINT"
    assert str(error) == "there is no checkpoint named 'foo'; known: bar, baz"


def test_findings_are_placed_within_what_holds_them() -> None:
    error = InvalidInput.single("image", "IMAGE_FORMAT", "no image").within("examples[7]")
    assert error.violations == (Violation("examples[7].image", "IMAGE_FORMAT", "no image"),)
    assert str(error) == "examples[7].image: no image"
