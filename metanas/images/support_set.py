"""From decoded images to a support set of tensors; the exported graph does the same.

The order is fixed: scale to 0..1, resize (`metanas.images.resize`), then an affine map per channel
that holds mean, standard deviation and, if the support set asked for it, inversion.
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
        """The network's input (1, C, size, size) of an image (H, W, C)."""
        pixels = torch.from_numpy(image.astype(np.float32, order="C")).permute(2, 0, 1)[None]
        return self.scaled(resize(pixels / 255, self.size))

    def scaled(self, pixels: Tensor) -> Tensor:
        """The network's input of resized pixels `(N, C, size, size)` in 0..1."""
        scale, shift = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.scale, self.shift))
        return pixels * scale + shift

    def undone(self, inputs: Tensor) -> Tensor:
        """The pixels that the network's input was made of."""
        scale, shift = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.scale, self.shift))
        return (inputs - shift) / scale


@dataclass(frozen=True)
class SupportSet:
    """A task as tensors: images `(N, C, S, S)`, labels `(N,)` into `classes`.

    Behind a trunk, `images` are what it makes of them, `(N, K)`, and `views` `(N, V, K)` what it
    makes of some random views of each.
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
        """Images of each class."""
        return tuple(torch.bincount(self.labels, minlength=self.ways).tolist())


@dataclass(frozen=True)
class Task:
    """A support set in every form that the stages need it in."""

    images: tuple[Image, ...]
    preprocess: Preprocessing
    support: SupportSet
    digest: str


def preprocessing_for(images: Sequence[Image], spec: InputSpec) -> Preprocessing:
    """The preprocessing of a task; whether it inverts is decided by its support images alone."""
    invert = spec.dark_background and _light_border(images)
    sign, offset = (-1.0, 1.0) if invert else (1.0, 0.0)
    return Preprocessing(
        size=spec.size,
        scale=tuple(sign / std for std in spec.std),
        shift=tuple((offset - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)),
    )


def _light_border(images: Sequence[Image]) -> bool:
    """Return True if most border pixels, image by image, are lighter than middle grey."""
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
    """Stack a task's images; without `classes`, these are in the order of their first examples."""
    names = tuple(dict.fromkeys(labels)) if classes is None else tuple(classes)
    index = {name: i for i, name in enumerate(names)}
    stacked = torch.cat([preprocess(image) for image in images])
    return SupportSet(stacked, torch.tensor([index[label] for label in labels]), names)
