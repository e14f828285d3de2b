"""The choice of a checkpoint by the support set.

Histograms of thumbnails describe the support set; they do not depend on the order of images and
classes. A prior (`metanas.spec.prior`) turns them into probabilities. Mean features of a
network beside the histograms made the choice worse.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.images.support_set import Image, Preprocessing
from metanas.spec.prior import BINS, PRIOR_FILE, SCALES, Prior, read_prior
from metanas_data.arrays import with_channels

MOST_IMAGES = 50
"""Most images that are described."""
SIDE = 28
"""Side of a thumbnail in pixels."""
DETAIL = 4
"""Rows and columns of a large image that are read for one pixel of a thumbnail, at least."""
LEAST_RANGE = 0.1
"""Least range of brightness that an image is taken to have."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Candidates:
    """Checkpoints by name, and the prior that chooses one of them.

    Raises:
        CheckpointError: the prior was fitted for other checkpoints.
    """

    prior: Prior
    checkpoints: Mapping[str, Checkpoint]

    def __post_init__(self) -> None:
        digests = {name: each.card.digest for name, each in self.checkpoints.items()}
        self.prior.check_checkpoints(digests)

    def probabilities(self, images: Sequence[Image], labels: Sequence[str]) -> dict[str, float]:
        """Compute p(checkpoint | support set), by the names of the checkpoints."""
        prior = self.prior
        description = describe_support(images, labels)
        weights = torch.tensor(prior.weights)
        shares = torch.softmax(weights @ description + torch.tensor(prior.bias), 0)
        return dict(zip(prior.checkpoints, shares.tolist(), strict=True))


def load_candidates(folder: Path, *, device: torch.device | str = "cpu") -> Candidates:
    """Load the prior in a folder and the checkpoints that it chooses from.

    Raises:
        CheckpointError: one of them is missing, damaged or has changed.
    """
    prior = read_prior(folder / PRIOR_FILE)
    names = prior.checkpoints
    return Candidates(
        prior, {name: load_checkpoint(folder / name, device=device) for name in names}
    )


def candidates_of(source: Checkpoint | Candidates) -> list[Checkpoint]:
    """Return the checkpoints that a job may get."""
    if isinstance(source, Checkpoint):
        return [source]
    return [source.checkpoints[name] for name in source.prior.checkpoints]


def choose(
    source: Checkpoint | Candidates, images: Sequence[Image], labels: Sequence[str]
) -> tuple[Checkpoint, dict[str, float]]:
    """Choose the most probable checkpoint; also return the probabilities, if there is a choice."""
    if isinstance(source, Checkpoint):
        return source, {}
    shares = source.probabilities(images, labels)
    return source.checkpoints[max(shares, key=shares.__getitem__)], shares


def select_images(images: Sequence[Image], labels: Sequence[str]) -> list[Image]:
    """Select up to `MOST_IMAGES` images, evenly over classes, and reduce large ones.

    The images alone decide which are selected and their order.
    """
    by_class: dict[str, list[Image]] = {}
    for image, label in zip(images, labels, strict=True):
        step = max(1, min(image.shape[:2]) // (DETAIL * SIDE))
        by_class.setdefault(label, []).append(image[::step, ::step])
    each = max(1, MOST_IMAGES // len(by_class))
    chosen = [image for group in by_class.values() for image in sorted(group, key=_key)[:each]]
    return sorted(chosen, key=_key)[:MOST_IMAGES]


def _key(image: Image) -> int:
    return zlib.crc32(image.tobytes())


def describe_support(images: Sequence[Image], labels: Sequence[str]) -> Tensor:
    """Describe a support set by thumbnails and mean images a class, `(DESCRIPTION,)`."""
    return describe_thumbnails(thumbnails(images, labels), len(labels) / len(set(labels)))


def thumbnails(images: Sequence[Image], labels: Sequence[str]) -> Tensor:
    """Return thumbnails of up to `MOST_IMAGES` images, `(N, 3, SIDE, SIDE)` from 0 to 1."""
    resized = Preprocessing(SIDE, (1.0,), (0.0,))
    some = [with_channels(image, 3) for image in select_images(images, labels)]
    return torch.cat([resized(image) for image in some]).clamp(0, 1)


def describe_thumbnails(pixels: Tensor, shots: float) -> Tensor:
    """Count brightness, colourfulness, and edges at several scales of thumbnails, `(DESCRIPTION,)`.

    Each image has its whole range of brightness. Mostly light images are inverted: ink on paper and
    light strokes on a dark ground count alike. The last number is one over the shots.
    """
    grey = (pixels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    low, high = (bound(grey, (2, 3), keepdim=True) for bound in (torch.amin, torch.amax))
    grey = ((grey - low) / (high - low).clamp(min=LEAST_RANGE)).clamp(0, 1)
    values = [1 - grey if float(grey.median()) > 0.5 else grey]
    values.append((pixels.amax(1) - pixels.amin(1)).sqrt())
    for scale in SCALES:
        coarse = F.avg_pool2d(grey, scale)
        edges = [coarse.diff(dim=dim).flatten() for dim in (2, 3)]
        values.append(torch.cat(edges).abs().sqrt())
    histograms = [torch.histc(each, BINS, 0, 1) / each.numel() for each in values]
    return torch.cat([*histograms, torch.tensor([1 / shots])])
