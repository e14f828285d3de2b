"""The support set as tensors, and the preprocessing of its images.

Preprocessing scales pixels to 0..1, resizes (`metanas.images.resize`), and applies an affine map
per channel for mean, standard deviation and inversion. The exported graph does the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metanas.images.resize import resize
from metanas.spec.card import InputSpec

Image = NDArray[np.uint8]
"""A decoded image (H, W, C)."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `size`, then `x * scale + shift` per channel on pixels in 0..1."""

    size: int
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def __call__(self, image: Image) -> Tensor:
        """Return the input (1, C, size, size) of the network for an image (H, W, C)."""
        pixels = torch.from_numpy(image.astype(np.float32, order="C")).permute(2, 0, 1)[None]
        return self.scaled(resize(pixels / 255, self.size))

    def scaled(self, pixels: Tensor) -> Tensor:
        """Return the input of the network for resized pixels `(N, C, size, size)` in 0..1."""
        scale, shift = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.scale, self.shift))
        return pixels * scale + shift

    def undone(self, inputs: Tensor) -> Tensor:
        """Return the pixels in 0..1 from which `scaled` made the input of the network."""
        scale, shift = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.scale, self.shift))
        return (inputs - shift) / scale


@dataclass(frozen=True)
class SupportSet:
    """A task as tensors: images `(N, C, S, S)`, labels `(N,)` into `classes`.

    Behind a trunk, `images` are its features of the images, `(N, K)`, and `views` its features of
    random views of each, `(N, V, K)`.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    views: Tensor | None = None

    @property
    def ways(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def shots(self) -> tuple[int, ...]:
        """Number of images of each class."""
        return tuple(torch.bincount(self.labels, minlength=self.ways).tolist())


@dataclass(frozen=True)
class Task:
    """A support set as images and as tensors, with its preprocessing and digest."""

    images: tuple[Image, ...]
    preprocess: Preprocessing
    support: SupportSet
    digest: str


def preprocessing_for(images: Sequence[Image], spec: InputSpec) -> Preprocessing:
    """Return the preprocessing of a task; its support images alone decide about inversion."""
    invert = spec.dark_background and light_border(images)
    sign, offset = (-1.0, 1.0) if invert else (1.0, 0.0)
    return Preprocessing(
        size=spec.size,
        scale=tuple(sign / std for std in spec.std),
        shift=tuple((offset - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)),
    )


def light_border(images: Sequence[Image]) -> bool:
    """Return True if the border of most images is lighter than middle grey."""
    votes = []
    for image in images:
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        votes.append(float(np.median(border)) > 127.5)
    return sum(votes) * 2 > len(votes)


def support_set(
    images: Sequence[Image],
    labels: Sequence[str],
    preprocess: Preprocessing,
    classes: Sequence[str] | None = None,
) -> SupportSet:
    """Stack the images of a task; by default, classes are in the order of their first examples."""
    return SupportSet(stacked(images, preprocess), *numbered(labels, classes))


def stacked(images: Sequence[Image], preprocess: Preprocessing) -> Tensor:
    """Preprocess images into one tensor `(N, C, S, S)`."""
    return torch.cat([preprocess(image) for image in images])


def numbered(
    labels: Sequence[str], classes: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the numbers of the classes of labels, `(N,)`, and the names of the classes."""
    names = tuple(dict.fromkeys(labels)) if classes is None else tuple(classes)
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index[label] for label in labels]), names
