"""Form of a model file: the size of its images, its precision and its opset."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metanas_client.resources import LARGEST_SIDE

INPUT, OUTPUTS = "images", ("logits", "probabilities", "known")

Pixels = NDArray[np.uint8]


class Form(NamedTuple):
    """Input of a file."""

    channels: int
    """1 for grey, 3 for RGB."""
    size: tuple[int, int] | None
    """Height and width of the only images that it takes, one at a time; None takes any."""

    @property
    def text(self) -> str:
        """The input as the metadata states it."""
        return "any" if self.size is None else f"fixed:{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Variant of a model that a file states, and its agreement with the model's own file."""

    precision: str = "float32"
    """"float32", "fp16" or "int8"."""
    input: str = "any"
    """"any" or "fixed:HxW"."""
    opset: int = 17
    images: int = 0
    """Number of images on which the agreement was measured."""
    top1: float = 1.0
    """Share of the images with the same class."""
    probability: float = 0.0
    """Largest difference of a probability."""
    logit: float = 0.0
    """Largest difference of a logit."""

    def __str__(self) -> str:
        """Return one line for people."""
        form = f"{self.precision}, input {self.input}, opset {self.opset}"
        if not self.images:
            return form
        return (
            f"{form}; the class of the original file on {self.top1:.1%} of {self.images} images, "
            f"probabilities within {self.probability:.2g}"
        )


def read_variant(raw: dict[str, Any]) -> Variant:
    """Read the entry of the metadata.

    Raises:
        TypeError, ValueError: it is malformed.
    """
    stated = Variant(**raw)
    expected = Variant()
    wrong = [
        field.name
        for field in fields(Variant)
        if type(getattr(stated, field.name)) is not type(getattr(expected, field.name))
    ]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be of another type")
    return stated


def read_form(inputs: Sequence[Any], outputs: Sequence[Any]) -> Form:
    """Read the form of the graph from ONNX Runtime's descriptions of its inputs and outputs.

    Raises:
        ValueError: it is not the graph of a model of MetaNAS.
    """
    if [(each.name, each.type) for each in inputs] != [(INPUT, "tensor(uint8)")]:
        raise ValueError(f"the graph must have one input, {INPUT!r}, of bytes")
    if {each.name for each in outputs} != set(OUTPUTS):
        raise ValueError(f"the outputs of the graph must be {', '.join(OUTPUTS)}")
    shape = inputs[0].shape
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ValueError(f"{INPUT!r} must have the shape (N, H, W, 1) or (N, H, W, 3), not {shape}")
    count, height, width, channels = shape
    if all(isinstance(each, str) for each in (count, height, width)):
        return Form(channels, None)
    sides = range(1, LARGEST_SIDE + 1)
    if count != 1 or height not in sides or width not in sides:
        raise ValueError(
            f"{INPUT!r} must take images of any size, or one image of at most "
            f"{LARGEST_SIDE}×{LARGEST_SIDE}, not {shape}"
        )
    return Form(channels, (height, width))


def resized(image: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Return an image (H, W, C) at a fixed size, by the antialiased filter of the models."""
    if size is None or image.shape[:2] == size:
        return image
    height, width = size
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    small = Image.fromarray(flat).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small, np.uint8).reshape(height, width, image.shape[2])


def repeated(image: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Return a conformance image at a fixed size: the nearest pixels, as the export takes them."""
    if size is None:
        return image
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, image.shape[:2], strict=True)
    )
    nearest: Pixels = image[rows[:, None], columns]
    return nearest
