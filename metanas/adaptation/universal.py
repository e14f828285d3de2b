"""The universal search space at work: the branches of a model, chosen by the support set.

Histograms of thumbnails describe the support set; they do not depend on the order of images and
classes. The prior (`metanas.spec.universal`) turns them into shares of the branches, the alphas of
this search space. Branches with a small share are pruned before they run. Mean features of a
network beside the histograms made the choice worse.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.metrics import overhead_of
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.export.metadata import Origin
from metanas.images.support_set import Image, Preprocessing
from metanas.nn.stem import METRIC, interpolated
from metanas.spec.card import CheckpointCard
from metanas.spec.options import AdaptConfig
from metanas.spec.universal import (
    BINS,
    SCALES,
    UNIVERSAL,
    UNIVERSAL_FILE,
    Branch,
    Universal,
    read_universal,
    space_of,
)
from metanas.supernet.supernet import Supernet
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
class UniversalSpace:
    """The universal search space and its checkpoints, by name.

    Raises:
        CheckpointError: the prior was fitted for other checkpoints.
    """

    universal: Universal
    checkpoints: Mapping[str, Checkpoint]

    def __post_init__(self) -> None:
        digests = {name: each.card.digest for name, each in self.checkpoints.items()}
        self.universal.check_checkpoints(digests)

    @property
    def name(self) -> str:
        """Its name, beside those of checkpoints."""
        return UNIVERSAL

    @property
    def digest(self) -> str:
        """Its digest."""
        return self.universal.digest

    @property
    def defaults(self) -> AdaptConfig:
        """Its default options."""
        return self.universal.config.defaults

    @cached_property
    def branches(self) -> dict[str, Checkpoint]:
        """The checkpoint of each branch, with the branch's input size and metric."""
        return {
            name: network_of(self.checkpoints[branch.checkpoint], branch)
            for name, branch in self.universal.branches.items()
        }

    @cached_property
    def overheads(self) -> dict[str, int]:
        """Bytes of the file of each branch, beside its weights."""
        return {name: overhead_of(each) for name, each in self.branches.items()}

    def shares(self, images: Sequence[Image], labels: Sequence[str]) -> dict[str, float]:
        """Compute the shares of all branches, by their names; the sum is 1."""
        universal = self.universal
        description = describe_support(images, labels)
        logits = torch.tensor(universal.weights) @ description + torch.tensor(universal.bias)
        return dict(zip(universal.branches, torch.softmax(logits, 0).tolist(), strict=True))


def network_of(checkpoint: Checkpoint, branch: Branch) -> Checkpoint:
    """Return a checkpoint with the input size and the metric of a branch, and without views.

    The heads of joined features need the same rows from each branch.
    """
    size = branch.size or checkpoint.card.input.size
    card = replace(checkpoint.card, input=replace(checkpoint.card.input, size=size), views=0)
    if not branch.last_block:
        return replace(checkpoint, card=card, params=interpolated(checkpoint.params, branch.keep))
    card = replace(card, space=space_of(checkpoint.card.space, branch))
    supernet = Supernet(card.space, checkpoint.ops).requires_grad_(False).to(checkpoint.device)
    params = {**checkpoint.params, METRIC: dict(supernet.named_parameters())[METRIC]}
    return replace(checkpoint, card=card, supernet=supernet, params=params)


def pruned(shares: Mapping[str, float], least: float) -> dict[str, float]:
    """Leave out the shares below `least`, but not the largest one; the sum of the rest is 1."""
    largest = max(shares.values())
    kept = {name: share for name, share in shares.items() if share >= min(least, largest)}
    return {name: share / sum(kept.values()) for name, share in kept.items()}


def branches_of(universal: Universal, shares: Mapping[str, float]) -> dict[str, float]:
    """Choose the branches of a model by the shares of all branches; return their shares.

    Branches with a small share are pruned. Of one checkpoint at two sizes the larger one takes both
    shares: the smaller one costs a pass of the trunk and adds no accuracy. A branch that is left
    alone shares the model with the branch that is beside it.
    """
    branches, costs = universal.branches, universal.costs
    kept = pruned(shares, universal.config.least_share)
    result = dict[str, float]()
    for name in sorted(kept, key=lambda name: costs[name].trunk_macs, reverse=True):
        larger = (
            other
            for other in result
            if branches[other].checkpoint == branches[name].checkpoint
            and costs[other].trunk_macs > costs[name].trunk_macs
        )
        taker = next(larger, name)
        result[taker] = result.get(taker, 0.0) + kept[name]
    alone = next(iter(result)) if len(result) == 1 else None
    beside = [name for name, branch in branches.items() if branch.beside and branch.beside == alone]
    names = [*result, *beside]
    return result if not beside else dict.fromkeys(names, 1 / len(names))


Source = Checkpoint | UniversalSpace
"""The networks that a job may use."""


@dataclass(frozen=True)
class Choice:
    """The networks of a job, the one with the largest share first."""

    branches: tuple[tuple[Checkpoint, float], ...]
    """Each with its share of the features."""
    origin: Origin
    prior: Mapping[str, float]
    """Share of each branch before the pruning."""
    scale: float | None
    """Scale of the logits; None takes that of the checkpoint."""
    over_budget: float = 0.0
    """Share of the features that a budget has left out."""

    @property
    def names(self) -> list[str]:
        """The names of the branches; one empty name for one checkpoint."""
        return list(self.origin.architecture) or [""]


def choose(source: Source, images: Sequence[Image], labels: Sequence[str]) -> Choice:
    """Choose the networks of a job; one checkpoint leaves no choice."""
    if isinstance(source, Checkpoint):
        return Choice(((source, 1.0),), Origin(source.name, source.digest), {}, None)
    prior = source.shares(images, labels)
    return choice_of(source, prior, branches_of(source.universal, prior))


def choice_of(
    source: UniversalSpace, prior: Mapping[str, float], shares: Mapping[str, float]
) -> Choice:
    """Return the choice of these branches in these shares."""
    names = sorted(shares, key=shares.__getitem__, reverse=True)
    rounded = {name: round(shares[name], 6) for name in names}
    branches = tuple((source.branches[name], shares[name]) for name in names)
    origin = Origin(source.name, source.digest, rounded)
    return Choice(branches, origin, prior, source.universal.scale)


def cards_of(source: Source) -> list[CheckpointCard]:
    """Return the cards of all networks that a job may use."""
    if isinstance(source, Checkpoint):
        return [source.card]
    return [each.card for each in source.branches.values()]


def channels_of(source: Source) -> int:
    """Return the channels of the images that a job decodes."""
    return max(card.input.channels for card in cards_of(source))


def load_source(folder: Path, *, device: torch.device | str = "cpu") -> Source:
    """Load a checkpoint, or the universal search space of a folder that has one.

    Raises:
        CheckpointError: one of the files is missing, damaged or has changed.
    """
    if (folder / UNIVERSAL_FILE).exists():
        return load_universal(folder, device=device)
    return load_checkpoint(folder, device=device)


def load_universal(folder: Path, *, device: torch.device | str = "cpu") -> UniversalSpace:
    """Load the universal search space in a folder, with its checkpoints.

    Raises:
        CheckpointError: one of them is missing, damaged or has changed.
    """
    universal = read_universal(folder / UNIVERSAL_FILE)
    names = universal.checkpoints
    return UniversalSpace(
        universal, {name: load_checkpoint(folder / name, device=device) for name in names}
    )


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
