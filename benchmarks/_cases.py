"""What is adapted: networks, and support sets as encoded images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw

from benchmarks._machine import ROOT
from metanas.adaptation.read_task import read_task
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
"""Network -> the checkpoint that it is in. Their images have the size of the network's input."""
DIGITS = ROOT / "examples" / "digits" / "support"
PAPER_BATCH = 15
"""Support images of a step in the paper's settings for five shots."""
LINES = 4
"""Strokes of a rendered character."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, the size of its images, and a task."""

    network: str
    """One of `SHIPPED`, or `paper` for the network of the MetaNAS paper, untrained."""
    ways: int
    shots: int
    size: int = 28
    channels: int = 1
    width: int = 0
    """Channels of every cell of the paper's network; 0 leaves it as it is."""
    cells: int = 0
    """Number of its cells, two of which reduce; 0 leaves it as it is."""

    @property
    def name(self) -> str:
        """Short, for the command line."""
        return f"{self.network}-{self.size}-{self.ways}w{self.shots}s"

    @property
    def title(self) -> str:
        """For tables."""
        pixels = f"{self.size}×{self.size}" + (f"×{self.channels}" if self.channels > 1 else "")
        return f"{self.network}, {pixels}, {self.ways}-way {self.shots}-shot"


def checkpoint_of(case: Case) -> Checkpoint:
    """The checkpoint of the case's network; of the paper's, with as many steps as the shipped."""
    shipped = load_checkpoint(CHECKPOINTS / SHIPPED.get(case.network, "omniglot"))
    if case.network in SHIPPED:
        return shipped
    options = shipped.card.defaults.replace({"batch_size": PAPER_BATCH, "shift_pixels": 0})
    space = paper_space(case.channels)
    if case.width or case.cells:
        cells, width = case.cells or space.cells, case.width or space.channels[0]
        stem = (*space.stem_channels[:-1], space.nodes * width)
        space = replace(
            space,
            channels=(width,) * cells,
            stem_channels=stem,
            reductions=(cells // 3, 2 * cells // 3),
        )
    return untrained(options, space, case.size)


def paper_space(channels: int) -> SearchSpace:
    """The search space of the MetaNAS paper (arXiv:1911.11090): 4 cells, 28 channels, 7 ops."""
    return SearchSpace(
        input_channels=channels,
        ops=tuple(name for name in OPS if name != "zero"),
        channels=(28, 28, 28, 28),
        reductions=(1, 3),
        nodes=3,
        stem_channels=(84,),
        stem_stride=1,
    )


def untrained(options: AdaptConfig, space: SearchSpace, size: int) -> Checkpoint:
    """Fresh parameters for this space."""
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


def examples_of(case: Case, episode: int) -> list[Example]:
    """A support set of PNG files; the same for the same episode.

    At 28×28 grey an episode of Omniglot's validation classes where the data set is at hand, else
    the digits of `examples/` as far as they go. Whatever neither has is drawn.
    """
    if (case.size, case.channels) == (28, 1):
        data = data_at_hand()
        if data is not None:
            return _sampled(data, case, episode)
        if case.ways <= 10 and case.shots <= 5:
            return _digits(case)
    return _rendered(case, episode)


def source_of(case: Case) -> str:
    """Where `examples_of` takes this case's images from."""
    if (case.size, case.channels) != (28, 1):
        return "drawn"
    if data_at_hand() is not None:
        return "omniglot"
    return "digits" if case.ways <= 10 and case.shots <= 5 else "drawn"


@cache
def data_at_hand() -> Dataset | None:
    """Omniglot's validation classes, if the data set is at hand."""
    config = read_config(ROOT / "configs" / "omniglot.toml")
    path = ROOT / config.data.path
    return read_dataset(path, config.data.val_split) if path.is_file() else None


def task_of(checkpoint: Checkpoint, case: Case, episode: int) -> Task:
    """The support set of an episode as an adaptation by the checkpoint's defaults reads it."""
    examples = examples_of(case, episode)
    return whole(read_task(examples, None, Limits(), checkpoint=checkpoint, seed=episode))


def _sampled(data: Dataset, case: Case, episode: int) -> list[Example]:
    shape = EpisodeShape(ways=case.ways, shots=case.shots, queries=1)
    support = Sampler(data, shape, 0).episode(episode).support
    return [
        Example(name, _png(pixels(image, 1)))
        for name, images in support.items()
        for image in images
    ]


def _digits(case: Case) -> list[Example]:
    return [
        Example(folder.name, path.read_bytes())
        for folder in sorted(DIGITS.iterdir())[: case.ways]
        for path in sorted(folder.iterdir())[: case.shots]
    ]


def _rendered(case: Case, episode: int) -> list[Example]:
    examples = []
    for way in range(case.ways):
        random = np.random.default_rng((episode, way))
        strokes = random.uniform(0.1, 0.9, (LINES, 4))
        colours = random.integers(64, 256, (LINES, 3))
        for _ in range(case.shots):
            moved = strokes + random.normal(0.0, 0.03, strokes.shape)
            examples.append(Example(f"class {way}", _drawn(moved, colours, case)))
    return examples


def _drawn(strokes: NDArray[np.float64], colours: NDArray[np.int64], case: Case) -> bytes:
    picture = Picture.new("RGB", (case.size, case.size))
    pen = ImageDraw.Draw(picture)
    for (x, y, to_x, to_y), (red, green, blue) in zip(strokes, colours.tolist(), strict=True):
        ends = [value * case.size for value in (x, y, to_x, to_y)]
        pen.line(ends, fill=(red, green, blue), width=case.size // 14)
    return _png(np.asarray(picture.convert("RGB" if case.channels == 3 else "L")))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Picture.fromarray(pixels.squeeze()).save(out, "PNG")
    return out.getvalue()
