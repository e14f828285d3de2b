"""The first stage of a request: check, decode and preprocess the labelled images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from metanas.adaptation.views import behind_trunk
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput, Violation
from metanas.images.decode import decode, from_array
from metanas.images.duplicates import shared_images
from metanas.images.support_set import (
    Image,
    SupportSet,
    Task,
    numbered,
    preprocessing_for,
    support_set,
)
from metanas.spec.examples import Example, Limits, check_examples
from metanas.util.work import Parts
from metanas_data.arrays import with_channels


def read_images(
    examples: Sequence[Example], classes: Sequence[str] | None, limits: Limits, channels: int
) -> Parts[list[Image]]:
    """Check a support set and decode its images, one by one.

    Raises:
        InvalidInput: all faults of the support set together.
    """
    check_examples(examples, limits, classes)
    images: list[Image] = []
    violations: list[Violation] = []
    pixels = 0
    for index, example in enumerate(examples):
        yield
        try:
            name = example.source or f"examples[{index}].image"
            images.append(_read(example.image, channels, limits, name))
        except InvalidInput as error:
            faults = error.within(f"examples[{index}]").violations
            violations += [_named(example, fault) for fault in faults]
            continue
        pixels += images[-1].shape[0] * images[-1].shape[1]
        if pixels > limits.max_total_pixels:
            raise _too_many_pixels(index + 1, limits)
    if violations:
        raise InvalidInput(violations)
    return images


def task_of(
    decoded: Sequence[Image],
    labels: Sequence[str],
    classes: Sequence[str] | None,
    *,
    checkpoint: Checkpoint,
    seed: int,
) -> Parts[Task]:
    """Preprocess a decoded support set, image by image.

    Args:
        decoded: grey or RGB images.
        labels: their labels.
        classes: all class names in order; None is the order of their first examples.
        checkpoint: checkpoint whose input format the images get.
        seed: seed of the views behind a trunk.

    Raises:
        InvalidInput: an image is in two classes.
    """
    card, trunk = checkpoint.card, checkpoint.trunk
    images = [with_channels(image, card.input.channels) for image in decoded]
    if shared := list(shared_images(images, labels)):
        raise InvalidInput(shared)
    preprocess = preprocessing_for(images, card.input)
    if trunk is None:
        support = support_set(images, labels, preprocess, classes)
    else:
        generator = torch.Generator().manual_seed(seed)
        features, views = yield from behind_trunk(images, preprocess, trunk, card, generator)
        support = SupportSet(features, *numbered(labels, classes), views)
    digest = _support_digest(images, labels, support.classes)
    return Task(tuple(images), preprocess, support, digest)


def _named(example: Example, fault: Violation) -> Violation:
    """Return the fault with the name of the file of its example."""
    if not example.source:
        return fault
    return replace(fault, message=f"{example.source}: {fault.message}")


def _read(image: bytes | NDArray[Any], channels: int, limits: Limits, name: str) -> Image:
    if isinstance(image, bytes):
        return decode(image, channels=channels, limits=limits, name=name)
    return from_array(image, channels=channels, limits=limits)


def _too_many_pixels(count: int, limits: Limits) -> InvalidInput:
    message = f"the first {count} images have more pixels together than the limit of "
    message += f"{limits.max_total_pixels}; send smaller images"
    return InvalidInput.single("examples", "TOO_MANY_PIXELS", message)


def _support_digest(images: Sequence[Image], labels: Sequence[str], classes: Sequence[str]) -> str:
    digest = hashlib.sha256(json.dumps(classes).encode())
    for image, label in zip(images, labels, strict=True):
        name = label.encode()
        digest.update(f"{len(name)} {image.shape} {image.dtype}\n".encode() + name)
        digest.update(image.tobytes())
    return digest.hexdigest()
