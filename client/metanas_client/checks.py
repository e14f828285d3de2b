"""Checks of a request before its upload, by the limits of the server's checkpoints.

They spare an upload that the server would refuse. The server checks everything again.
"""

from collections.abc import Iterator, Sequence

from metanas_client.errors import InvalidInput, NotFound, Violation
from metanas_client.resources import Checkpoint, Limits
from metanas_client.support import RawImage, SupportSet
from metanas_client.text import size
from metanas_data.suggest import did_you_mean

PREFIX = "checkpoints/"


def choose_checkpoint(known: Sequence[Checkpoint], name: str) -> Checkpoint:
    """Return the checkpoint of that name, or the only one if no name is given.

    Raises:
        InvalidInput: CHECKPOINT_AMBIGUOUS, with the names to choose from.
        NotFound: UNKNOWN_CHECKPOINT, with the names that there are.
    """
    by_name = {one.name.removeprefix(PREFIX): one for one in known}
    bare = name.removeprefix(PREFIX)
    if bare in by_name:
        return by_name[bare]
    if not by_name:
        raise NotFound("UNKNOWN_CHECKPOINT", "the server has no checkpoint")
    if name:
        hint = did_you_mean(bare, by_name)
        message = f"there is no checkpoint {bare!r}.{hint} The server has: {', '.join(by_name)}"
        raise NotFound("UNKNOWN_CHECKPOINT", message)
    if len(by_name) == 1:
        return known[0]
    choices = "; ".join(f"{bare} ({one.description})" for bare, one in by_name.items())
    raise InvalidInput.single(
        "checkpoint", "CHECKPOINT_AMBIGUOUS", f"name one of the server's checkpoints: {choices}"
    )


def check_sizes(support: SupportSet, limits: Limits) -> None:
    """Check the bytes of every image and of all images together.

    Raises:
        InvalidInput: IMAGE_TOO_LARGE for every such image, with its file, and beside them
            LABEL_EMPTY and CLASS_WITHOUT_EXAMPLES; or TOO_MANY_BYTES.
    """
    too_large = list(_too_large(support, limits.max_image_bytes))
    if too_large:
        raise InvalidInput([*too_large, *_unusable_classes(support)])
    total = sum(_bytes(example.image) for example in support.examples)
    if total > limits.max_total_bytes:
        raise InvalidInput.single(
            "examples",
            "TOO_MANY_BYTES",
            f"the images have {size(total)}; the server takes {size(limits.max_total_bytes)}. "
            "Send fewer images, or smaller ones",
        )


def _too_large(support: SupportSet, limit: int) -> Iterator[Violation]:
    for index, example in enumerate(support.examples):
        found = _bytes(example.image)
        if found > limit:
            yield Violation(
                f"examples[{index}].image",
                "IMAGE_TOO_LARGE",
                f"the image has {size(found)}; the server takes {size(limit)}. Make it smaller",
                example.source,
            )


def _unusable_classes(support: SupportSet) -> Iterator[Violation]:
    """Find what the server would find next, so that one answer names it all."""
    present = {example.label for example in support.examples}
    for index, label in enumerate(support.classes):
        field = f"classes[{index}]"
        if not label.strip():
            yield Violation(field, "LABEL_EMPTY", "the label is empty; name the class", None)
        elif label not in present:
            message = f"class {label.decode('utf-8', 'replace')!r} has no image; add one"
            yield Violation(field, "CLASS_WITHOUT_EXAMPLES", message, None)


def _bytes(image: bytes | RawImage) -> int:
    return len(image.data if isinstance(image, RawImage) else image)
