"""Checks of a request before its upload, by the limits of the server's checkpoints.

They avoid an upload that the server would refuse. The server checks everything again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from metanas_client.errors import LISTED_BY, InvalidInput, NotFound, Violation
from metanas_client.resources import Checkpoint, Limits
from metanas_client.support import SupportSet, unreadable
from metanas_client.text import size
from metanas_data.suggest import did_you_mean

PREFIX = "checkpoints/"
UNIVERSAL = "universal"
"""Name of the search space that a request without a checkpoint takes."""


def choose_checkpoint(known: Sequence[Checkpoint], name: str) -> Checkpoint:
    """Return the checkpoint of that name; without a name, `universal` or the only one.

    Raises:
        InvalidInput: CHECKPOINT_AMBIGUOUS, with the names to choose from.
        NotFound: UNKNOWN_CHECKPOINT, with the names that there are.
    """
    by_name = {one.name.removeprefix(PREFIX): one for one in known}
    descriptions = {bare: one.description for bare, one in by_name.items()}
    place = f"the server (see `{LISTED_BY['UNKNOWN_CHECKPOINT']}`)"
    return by_name[choose_name(descriptions, name, place)]


def choose_name(known: Mapping[str, str], name: str, place: str) -> str:
    """Choose as `choose_checkpoint` does, by names without their prefix.

    known: name -> description.
    place: the server or the folder that has them, for messages.
    """
    bare = name.removeprefix(PREFIX)
    if not name and UNIVERSAL in known:
        return UNIVERSAL
    if bare in known:
        return bare
    if not known:
        raise NotFound("UNKNOWN_CHECKPOINT", f"{place} has no checkpoint")
    if name:
        hint = did_you_mean(bare, known)
        message = f"there is no checkpoint {bare!r}.{hint} Checkpoints of {place}: "
        raise NotFound("UNKNOWN_CHECKPOINT", message + ", ".join(known))
    if len(known) == 1:
        return next(iter(known))
    choices = "; ".join(f"{each} ({description})" for each, description in known.items())
    message = f"name one of the checkpoints of {place}: {choices}"
    raise InvalidInput.single("checkpoint", "CHECKPOINT_AMBIGUOUS", message)


def check_sizes(support: SupportSet, limits: Limits) -> None:
    """Check the numbers of classes and images, and their bytes, without reading a file.

    Raises:
        InvalidInput: TOO_MANY_WAYS, TOO_MANY_EXAMPLES or TOO_MANY_SHOTS; FILE_UNREADABLE or
            IMAGE_TOO_LARGE for every such image, with its file, and beside them LABEL_EMPTY and
            CLASS_WITHOUT_EXAMPLES; or TOO_MANY_BYTES.
    """
    if too_many := list(_too_many(support, limits)):
        raise InvalidInput(too_many)
    sizes, unusable = _sizes(support, limits.max_image_bytes)
    if unusable:
        raise InvalidInput([*unusable, *_unusable_classes(support)])
    if sum(sizes) > limits.max_total_bytes:
        raise InvalidInput.single(
            "examples",
            "TOO_MANY_BYTES",
            f"the images have {size(sum(sizes))}; at most {size(limits.max_total_bytes)} are "
            "allowed. Send fewer images, or smaller ones",
        )


def _too_many(support: SupportSet, limits: Limits) -> Iterator[Violation]:
    ways, count = len(support.classes), len(support.examples)
    if ways > limits.max_ways:
        message = f"there are {ways} classes; at most {limits.max_ways} are allowed"
        yield Violation("classes", "TOO_MANY_WAYS", message)
    if count > limits.max_examples:
        message = f"there are {count} images; at most {limits.max_examples} are allowed"
        yield Violation(f"examples[{limits.max_examples}]", "TOO_MANY_EXAMPLES", message)
    shots = Counter(example.label for example in support.examples)
    counts = Counter[bytes]()
    for index, example in enumerate(support.examples):
        counts[example.label] += 1
        if counts[example.label] == limits.max_shots + 1:
            name, images = example.label.decode("utf-8", "replace"), shots[example.label]
            message = f"class {name!r} has {images} images; at most {limits.max_shots} are allowed"
            yield Violation(f"examples[{index}]", "TOO_MANY_SHOTS", message)


def _sizes(support: SupportSet, limit: int) -> tuple[list[int], list[Violation]]:
    sizes, unusable = [], []
    for index, example in enumerate(support.examples):
        field = f"examples[{index}].image"
        try:
            sizes.append(example.size())
        except OSError as error:
            unusable.append(unreadable(field, Path(error.filename), error))
            continue
        if sizes[-1] > limit:
            message = f"the image has {size(sizes[-1])}; at most {size(limit)} are allowed. "
            message += "Make it smaller"
            unusable.append(Violation(field, "IMAGE_TOO_LARGE", message, example.source))
    return sizes, unusable


def utf8(field: str, text: str) -> str:
    """Return a text that a message can carry.

    Raises:
        InvalidInput: NOT_UTF8, it has bytes that are not UTF-8, as arguments of a program can.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"{text!r} is not UTF-8; write it in UTF-8"
        raise InvalidInput.single(field, "NOT_UTF8", message) from error
    return text


def caller_names(field: str, names: Sequence[str]) -> list[str]:
    """Return the names of callers.

    Raises:
        InvalidInput: CALLER_NAME, it is one text, whose characters would be names; NOT_UTF8.
    """
    if isinstance(names, str):
        message = f"must be a list of names; write [{names!r}]"
        raise InvalidInput.single(field, "CALLER_NAME", message)
    return [utf8(f"{field}[{index}]", name) for index, name in enumerate(names)]


def qualified(collection: str, name: str) -> str:
    """Return the full name of a resource, given the full name or its last part.

    Raises:
        InvalidInput: NOT_UTF8.
    """
    return utf8("name", name if "/" in name else f"{collection}/{name}")


def _unusable_classes(support: SupportSet) -> Iterator[Violation]:
    """Yield the faults of the classes that the server would find next."""
    present = {example.label for example in support.examples}
    for index, label in enumerate(support.classes):
        field = f"classes[{index}]"
        if not label.strip():
            yield Violation(field, "LABEL_EMPTY", "the label is empty; name the class", None)
        elif label not in present:
            message = f"class {label.decode('utf-8', 'replace')!r} has no image; add one"
            yield Violation(field, "CLASS_WITHOUT_EXAMPLES", message, None)


def name_sources(error: InvalidInput, support: SupportSet) -> InvalidInput:
    """Return the same error, with the file of each example that it names by index."""
    return InvalidInput([_with_source(violation, support) for violation in error.violations])


def _with_source(violation: Violation, support: SupportSet) -> Violation:
    head, bracket, _ = violation.field.removeprefix("examples[").partition("]")
    if not (violation.field.startswith("examples[") and bracket and head.isdigit()):
        return violation
    index = int(head)
    if violation.source is not None or index >= len(support.examples):
        return violation
    source = support.examples[index].source
    return Violation(violation.field, violation.reason, violation.message, source)
