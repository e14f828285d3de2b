"""Workloads: networks, and support sets as encoded images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL.Image import Resampling

from benchmarks.harness.machine import ROOT
from metanas.adaptation.read_task import read_images
from metanas.adaptation.read_task import task_of as preprocessed
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.images.support_set import Task
from metanas.nn.ops import OPS
from metanas.spec.card import CheckpointCard, InputSpec
from metanas.spec.examples import Example, Limits
from metanas.spec.options import AdaptConfig, AffineRange
from metanas.spec.search_space import SearchSpace
from metanas.supernet.supernet import Supernet, initialise
from metanas.training.config_file import read_config
from metanas.util.work import whole
from metanas_data.datasets.dataset import Dataset, pixels, read_dataset
from metanas_data.datasets.episodes import EpisodeShape, Sampler

CHECKPOINTS = ROOT / "meta_checkpoints"
SHIPPED: Mapping[str, str] = {"shipped": "omniglot", "photos": "photos"}
"""Network -> its checkpoint. Images have the size of the network's input."""
PAPER_BATCH = 15
"""Support images of a step in the paper's settings for five shots."""
PATCHES = 7
"""Patches of a drawn pattern, along each side."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A network, the size of its images, and a task.

    network: one of `SHIPPED`, or `paper` for the untrained network of the MetaNAS paper.
    width: channels of each cell of the paper's network; 0 keeps 28.
    cells: cells of the paper's network, two of them reductions; 0 keeps 4.
    """

    network: str
    ways: int
    shots: int
    size: int = 28
    channels: int = 1
    width: int = 0
    cells: int = 0

    @property
    def name(self) -> str:
        """A short name for the command line."""
        return f"{self.network}-{self.size}-{self.ways}w{self.shots}s"

    @property
    def title(self) -> str:
        """A title for tables."""
        pixels = f"{self.size}×{self.size}" + (f"×{self.channels}" if self.channels > 1 else "")
        return f"{self.network}, {pixels}, {self.ways}-way {self.shots}-shot"


def checkpoint_of(workload: Workload) -> Checkpoint:
    """Load or make the checkpoint; the paper's network takes as many steps as the shipped one."""
    shipped = load_checkpoint(CHECKPOINTS / SHIPPED.get(workload.network, "omniglot"))
    if workload.network in SHIPPED:
        return shipped
    options = shipped.card.defaults.replace({"batch_size": PAPER_BATCH, "shift_pixels": 0})
    space = paper_space(workload.channels)
    if workload.width or workload.cells:
        cells, width = workload.cells or space.cells, workload.width or space.channels[0]
        stem = (*space.stem_channels[:-1], space.nodes * width)
        space = replace(
            space,
            channels=(width,) * cells,
            stem_channels=stem,
            reductions=(cells // 3, 2 * cells // 3),
        )
    return untrained(options, space, workload.size)


def paper_space(channels: int) -> SearchSpace:
    """Read the search space of the MetaNAS paper (arXiv:1911.11090): 4 cells of 28 channels."""
    dataset = "omniglot" if channels == 1 else "miniimagenet"
    return read_config(ROOT / "configs" / f"paper-{dataset}.toml").space


def untrained(options: AdaptConfig, space: SearchSpace, size: int) -> Checkpoint:
    """Make a checkpoint with fresh parameters for this search space."""
    supernet = Supernet(space, OPS)
    initialise(supernet, torch.Generator().manual_seed(0))
    grey = (0.0,) * space.input_channels
    card = CheckpointCard(
        name="untrained",
        description="Fresh parameters, for measuring.",
        input=InputSpec(
            channels=space.input_channels, size=size, mean=grey, std=(1.0,) * len(grey)
        ),
        space=space,
        defaults=options,
        augment=AffineRange(),
        parameters=sum(value.numel() for value in supernet.parameters()),
        weights_sha256="",
    )
    params = {name: value.detach() for name, value in supernet.named_parameters()}
    return Checkpoint(card, supernet.requires_grad_(False), params, OPS)


def examples_of(workload: Workload, episode: int) -> list[Example]:
    """Make a support set of PNG files; an episode always gives the same.

    Grey images of 28×28 are an episode of Omniglot's validation classes, where the data set is
    available. All others are drawn.
    """
    if (workload.size, workload.channels) == (28, 1) and (dataset := omniglot()):
        return _sampled(dataset, workload, episode)
    return _drawn(workload, episode)


@cache
def omniglot() -> Dataset | None:
    """Read Omniglot's validation classes, where the data set is available."""
    config = read_config(ROOT / "configs" / "omniglot.toml")
    path = ROOT / config.data.path
    return read_dataset(path, config.data.val_split) if path.is_file() else None


def task_of(checkpoint: Checkpoint, workload: Workload, episode: int) -> Task:
    """Decode an episode's support set as an adaptation does."""
    examples = examples_of(workload, episode)
    images = whole(read_images(examples, None, Limits(), checkpoint.card.input.channels))
    labels = [example.label for example in examples]
    return whole(preprocessed(images, labels, None, checkpoint=checkpoint, seed=episode))


def _sampled(dataset: Dataset, workload: Workload, episode: int) -> list[Example]:
    shape = EpisodeShape(ways=workload.ways, shots=workload.shots, queries=1)
    support = Sampler(dataset, shape, 0).episode(episode).support
    return [
        Example(label, _png(pixels(image, 1)))
        for label, images in support.items()
        for image in images
    ]


def _drawn(workload: Workload, episode: int) -> list[Example]:
    """Draw smooth patterns of colours: one a class, with noise for each of its images."""
    side, channels = (workload.size, workload.size), workload.channels
    examples = []
    for way in range(workload.ways):
        random = np.random.default_rng((episode, way))
        pattern = random.uniform(0, 255, (PATCHES, PATCHES, channels))
        for _ in range(workload.shots):
            noisy = (pattern + random.normal(0, 20, pattern.shape)).clip(0, 255).astype(np.uint8)
            image = Picture.fromarray(noisy.squeeze()).resize(side, Resampling.BICUBIC)
            examples.append(Example(f"class {way}", _png(np.asarray(image))))
    return examples


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Picture.fromarray(pixels.squeeze()).save(out, "PNG")
    return out.getvalue()
