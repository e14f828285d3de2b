"""The examples of a support set, their limits, and the checks that need no pixels."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from metanas.errors import InvalidInput, Violation
from metanas.util.fields import Count, Range, check
from metanas_data.limits import ImageLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a support set."""

    max_ways: Annotated[int, Range(least=2)] = 100
    """Most classes of a support set."""
    max_shots: Count = 50
    """Most examples of one class."""
    max_examples: Count = 5000
    """Most examples of a support set."""
    max_image_bytes: Annotated[int, Range(1, 2**30)] = 16 * 2**20
    """Most bytes of one image, encoded or raw; more overflow in gRPC."""
    max_total_bytes: Count = 256 * 2**20
    """Most bytes of a support set."""
    max_pixels: Count = ImageLimits.max_pixels
    """Most pixels of one image, read from its header."""
    max_total_pixels: Count = 400_000_000
    """Most pixels of a support set, which stays decoded during its adaptation."""
    min_side: Count = ImageLimits.min_side
    """Smallest height and width of an image in pixels."""
    max_label_bytes: Count = 256
    """Most bytes of a label."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Example:
    """One labelled support image.

    image: an encoded file (PNG, JPEG, WebP, BMP), or an array (H, W, C) of uint8 or of float32
        within 0..1.
    source: path of its file, for error messages.
    """

    label: str
    image: "bytes | NDArray[np.uint8] | NDArray[np.float32]"
    source: str = field(default="", compare=False)


def check_examples(
    examples: Sequence[Example],
    limits: Limits,
    classes: Sequence[str] | None = None,
    read: Sequence[Violation] = (),
) -> None:
    """Do the checks of a support set that need no decoding.

    examples: the support set, in any order.
    classes: the declared class names, in the caller's order. Every label must be one of them, and
        every class must have examples. None takes the labels as classes.
    read: violations of parts that could not be read, and that a placeholder replaces.

    Raises:
        InvalidInput: with all violations; `InvalidInput` lists the first ones. Empty image files
            are among them only beside other faults: else decoding reports them together with all
            other unreadable images.
    """
    faults = [*_check_classes(examples, classes, limits), *_check_counts(examples, classes, limits)]
    faults += _check_lookalikes(examples, classes)
    for index, example in enumerate(examples):
        faults += check_label(example.label, f"examples[{index}].label", limits)
        faults += _check_image_bytes(example.image, f"examples[{index}].image", limits)
    faults += _check_total_bytes(examples, limits)
    fields = {violation.field for violation in read}
    faults = [*read, *(each for each in faults if each.field not in fields)]
    if faults:
        raise InvalidInput([*faults, *_empty_images(examples)])


def decode_label(raw: bytes, index: int) -> str:
    """Return the label of example `index` from its bytes.

    Raises:
        InvalidInput: `examples[index].label`, LABEL_NOT_UTF8.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the label is not valid UTF-8 (at byte {error.start}); encode labels as UTF-8"
        raise InvalidInput.single(f"examples[{index}].label", "LABEL_NOT_UTF8", message) from None


def check_label(label: str, field: str, limits: Limits) -> Iterator[Violation]:
    """Yield the violations of a class name.

    A name must not be empty, white space, too long or not encodable, nor have control characters,
    which would change terminals and logs.
    """
    try:
        size = len(label.encode("utf-8"))
    except UnicodeEncodeError:  # a lone surrogate, from a file name that is not UTF-8
        yield Violation(field, "LABEL_NOT_UTF8", "the label cannot be written as UTF-8")
        return
    if not label.strip():
        yield Violation(field, "LABEL_EMPTY", "the label is empty; name the class")
    elif size > limits.max_label_bytes:
        message = f"the label has {size} bytes; at most {limits.max_label_bytes} are allowed"
        yield Violation(field, "LABEL_TOO_LONG", message)
    elif any(unicodedata.category(character) == "Cc" for character in label):
        message = f"the label {label!a} has control characters; leave them out"
        yield Violation(field, "LABEL_CONTROL", message)


def _check_classes(
    examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits
) -> Iterator[Violation]:
    if classes is None:
        return
    present, first = {example.label for example in examples}, dict[str, int]()
    for index, name in enumerate(classes):
        field = f"classes[{index}]"
        yield from check_label(name, field, limits)
        if name in first:
            message = f"class {_short(name)} is declared twice, at {first[name]} and {index}"
            yield Violation(field, "DUPLICATE_LABEL", message)
        elif examples and name not in present:
            message = f"class {_short(name)} has no example; add one or leave the class out"
            yield Violation(field, "CLASS_WITHOUT_EXAMPLES", message)
        first.setdefault(name, index)
    for index, example in enumerate(examples):
        if example.label not in first:
            message = f"label {_short(example.label)} is not among the declared classes"
            yield Violation(f"examples[{index}].label", "LABEL_UNKNOWN", message)


def _check_lookalikes(
    examples: Sequence[Example], classes: Sequence[str] | None
) -> Iterator[Violation]:
    """Yield each class name that is another one in a different Unicode form: they look the same."""
    fields = {name: f"classes[{index}]" for index, name in enumerate(classes or ())}
    for index, example in enumerate(examples):
        fields.setdefault(example.label, f"examples[{index}].label")
    first = dict[str, str]()
    for name, place in fields.items():
        other = first.setdefault(unicodedata.normalize("NFC", name), place)
        if other != place:
            message = (
                f"class {name!a} is the text of {other} in another Unicode form; use one of them"
            )
            yield Violation(place, "DUPLICATE_LABEL", message)


def _check_counts(
    examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits
) -> Iterator[Violation]:
    shots = Counter(example.label for example in examples)
    ways = len(shots.keys() | set(classes or ()))
    if not examples:
        message = "there is no example; send images of at least two classes"
        yield Violation("examples", "NO_EXAMPLES", message)
    elif ways == 1:
        message = f"there is only class {_short(examples[0].label)}; at least two are needed"
        yield Violation("examples", "ONE_CLASS", message)
    if ways > limits.max_ways:
        message = f"there are {ways} classes; at most {limits.max_ways} are allowed"
        yield Violation("examples", "TOO_MANY_WAYS", message)
    if len(examples) > limits.max_examples:
        message = f"there are {len(examples)} examples; at most {limits.max_examples} are allowed"
        yield Violation("examples", "TOO_MANY_EXAMPLES", message)
    for label, count in shots.items():
        if count > limits.max_shots:
            message = (
                f"class {_short(label)} has {count} examples; at most {limits.max_shots} can be"
            )
            yield Violation("examples", "TOO_MANY_SHOTS", message)


def _check_image_bytes(image: Any, field: str, limits: Limits) -> Iterator[Violation]:
    size = _size(image)
    if size > limits.max_image_bytes:
        message = f"the image has {size} bytes; at most {limits.max_image_bytes} are allowed"
        yield Violation(field, "IMAGE_TOO_LARGE", message)


def _empty_images(examples: Sequence[Example]) -> Iterator[Violation]:
    for index, example in enumerate(examples):
        if isinstance(example.image, bytes) and not example.image:
            text = "the image is empty (0 bytes)"
            yield Violation(f"examples[{index}].image", "IMAGE_UNREADABLE", text)


def _check_total_bytes(examples: Sequence[Example], limits: Limits) -> Iterator[Violation]:
    total = sum(_size(example.image) for example in examples)
    if total > limits.max_total_bytes:
        message = f"the images have {total} bytes; at most {limits.max_total_bytes} are allowed"
        yield Violation("examples", "TOO_MANY_BYTES", message)


def _size(image: Any) -> int:
    return len(image) if isinstance(image, bytes) else int(image.nbytes)


def _short(label: str) -> str:
    return repr(label if len(label) <= 40 else label[:39] + "…")
