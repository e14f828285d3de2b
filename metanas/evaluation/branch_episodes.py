"""Episodes of several data sets, as the branches of the universal search space see them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.universal import describe_thumbnails, thumbnails
from metanas.checkpoint import Checkpoint
from metanas.images.support_set import Image, Preprocessing, light_border, preprocessing_for
from metanas.nn.trunk import CHUNK
from metanas.supernet.discrete import features_of, freeze_statistics, from_supernet
from metanas.util.work import whole
from metanas_data.arrays import with_channels
from metanas_data.datasets.dataset import pixels, read_dataset
from metanas_data.datasets.episodes import draw_rows
from metanas_data.errors import DatasetError

WAYS, SHOTS = 5, (1, 5)
CLASSES = 40
"""Most classes of a data set that take part."""
IMAGES = 10
"""Most images of a class that take part; all that are no support images are queries."""
ALTERED = 4
"""Descriptions of an episode, all but the first of altered images: the shares then depend less on
their origin."""
NO_QUERY = -100
"""Label of a row that pads the queries of an episode."""

Rows = Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Class of an episode -> positions of its support images and of its queries."""


class Episodes(NamedTuple):
    """Episodes of some classes of a data set, all of one number of shots."""

    shots: int
    features: Tensor
    """`(E, N + Q, B, R)`: support images, then queries; R numbers of each branch, turned so that
    products of images are those of the branch's features of length one."""
    queries: Tensor
    """Labels `(E, Q)`, `NO_QUERY` for a row of padding."""
    descriptions: Tensor
    """`(E, ALTERED, DESCRIPTION)`, the first one of the images as they are."""

    @property
    def support(self) -> Tensor:
        """Labels of the support images, `(N,)`."""
        return torch.arange(WAYS).repeat_interleave(self.shots)


def read_images(path: Path) -> dict[str, list[Image]]:
    """Decode the first images of some classes, evenly spaced.

    Raises:
        DatasetError: the data set cannot be used, or has too few classes.
    """
    least = max(SHOTS) + 1
    classes = {k: v for k, v in read_dataset(path).classes.items() if len(v) >= least}
    if len(classes) < 2 * WAYS:
        message = f"{path} has {len(classes)} classes of {least} images or more to validate on; "
        raise DatasetError("DATASET_TOO_FEW_CLASSES", f"{message}{2 * WAYS} are needed")
    places = np.linspace(0, len(classes) - 1, min(len(classes), CLASSES)).astype(int)
    names = [list(classes)[place] for place in places]
    return {name: [pixels(image, 3) for image in classes[name][:IMAGES]] for name in names}


def draw_episodes(
    branches: Mapping[str, Checkpoint], images: Mapping[str, Sequence[Image]], count: int
) -> list[Episodes]:
    """Draw `count` episodes for each number of shots."""
    some, random = _Images(branches, images), np.random.default_rng(0)
    return [_stack(shots, [some.episode(shots, random) for _ in range(count)]) for shots in SHOTS]


class BranchInputs(NamedTuple):
    """The input of a branch for all images of a data set, by class."""

    inputs: dict[str, Tensor]
    """Preprocessed images, or rows of a trunk."""
    light: dict[str, list[bool]]
    """True for an image whose border is light, if the checkpoint inverts such images."""


def inputs_of(
    branches: Mapping[str, Checkpoint], images: Mapping[str, Sequence[Image]]
) -> dict[str, BranchInputs]:
    """Preprocess all images for each branch; branches of one trunk and size share its rows."""
    by_trunk: dict[tuple[int, int], BranchInputs] = {}
    result = {}
    for name, checkpoint in branches.items():
        if (key := checkpoint.input_key) not in by_trunk:
            by_trunk[key] = _inputs(checkpoint, images)
        result[name] = by_trunk[key]
    return result


@torch.no_grad()
def _inputs(checkpoint: Checkpoint, images: Mapping[str, Sequence[Image]]) -> BranchInputs:
    spec, trunk = checkpoint.card.input, checkpoint.trunk
    preprocess = preprocessing_for([], spec)
    inputs, light = dict[str, Tensor](), dict[str, list[bool]]()
    for name, each in images.items():
        converted = [with_channels(image, spec.channels) for image in each]
        x = torch.cat([preprocess(image) for image in converted])
        inputs[name] = x if trunk is None else torch.cat([trunk(part) for part in x.split(CHUNK)])
        light[name] = [spec.dark_background and light_border([image]) for image in converted]
    return BranchInputs(inputs, light)


class _Episode(NamedTuple):
    features: list[Tensor]
    queries: list[int]
    descriptions: list[Tensor]


class _Images:
    """Images of some classes, and the input of each branch for them."""

    def __init__(
        self, branches: Mapping[str, Checkpoint], images: Mapping[str, Sequence[Image]]
    ) -> None:
        self._branches, self._images = branches, images
        self._inputs = inputs_of(branches, images)
        self._sizes = {name: len(each) for name, each in images.items()}

    def episode(self, shots: int, random: np.random.Generator) -> _Episode:
        """Draw an episode, and compute the features of each branch."""
        rows = draw_rows(self._sizes, WAYS, shots, IMAGES, random)
        places = [(name, row) for name, (support, _) in rows.items() for row in support]
        images = [self._images[name][row] for name, row in places]
        seen = thumbnails(images, [name for name, _ in places])
        features = [
            turned(branch_features(each, self._inputs[name], rows))
            for name, each in self._branches.items()
        ]
        queries = [way for way, (_, others) in enumerate(rows.values()) for _ in others]
        descriptions = [describe_thumbnails(each, shots) for each in _altered(seen, random)]
        return _Episode(features, queries, descriptions)


def _stack(shots: int, episodes: Sequence[_Episode]) -> Episodes:
    """Pad the queries of episodes to one number."""
    length = max(each.features[0].shape[0] for each in episodes)
    features, queries = [], []
    for each in episodes:
        missing = length - each.features[0].shape[0]
        padded = [F.pad(part, (0, missing, 0, missing)) for part in each.features]
        features.append(torch.stack(padded, dim=1))
        queries.append(torch.tensor([*each.queries, *[NO_QUERY] * missing]))
    descriptions = torch.stack([torch.stack(each.descriptions) for each in episodes])
    return Episodes(shots, torch.stack(features), torch.stack(queries), descriptions)


@torch.no_grad()
def branch_features(checkpoint: Checkpoint, inputs: BranchInputs, rows: Rows) -> Tensor:
    """Compute features of length one, `(N + Q, D)`, by the pruned meta-network."""
    support, queries = (
        torch.cat([inputs.inputs[name][pair[part]] for name, pair in rows.items()])
        for part in (0, 1)
    )
    votes = [inputs.light[name][row] for name, (few, _) in rows.items() for row in few]
    if 2 * sum(votes) > len(votes):
        support, queries = (_inverted(each, checkpoint) for each in (support, queries))
    card = checkpoint.card
    network = from_supernet(card.space, checkpoint.params, checkpoint.meta_genotype, checkpoint.ops)
    features = whole(freeze_statistics(network, support, card.defaults.batch_size))
    return F.normalize(torch.cat([features, whole(features_of(network, queries))]), dim=1)


def _inverted(inputs: Tensor, checkpoint: Checkpoint) -> Tensor:
    spec = checkpoint.card.input
    plain = preprocessing_for([], spec)
    scale = tuple(-each for each in plain.scale)
    shift = tuple(a + b for a, b in zip(plain.scale, plain.shift, strict=True))
    return Preprocessing(spec.size, scale, shift).scaled(plain.undone(inputs))


def turned(features: Tensor) -> Tensor:
    """Return `(M, M)` numbers with the products of features `(M, D)`: less to keep."""
    values, vectors = torch.linalg.eigh((features @ features.T).double())
    coordinates: Tensor = vectors * values.clamp(min=0).sqrt()
    return coordinates.float()


def _altered(seen: Tensor, random: np.random.Generator) -> list[Tensor]:
    """Return thumbnails as they are, out of focus, and both as if photographed from paper."""
    blurred = F.avg_pool2d(F.pad(seen, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return [seen, blurred, *(_from_paper(each, random) for each in (seen, blurred))]


def _from_paper(seen: Tensor, random: np.random.Generator) -> Tensor:
    """Invert thumbnails or not, and give them less contrast, a tint and noise."""
    contrast, level = random.uniform(0.5, 1), random.random()
    tint = torch.from_numpy(random.uniform(0.85, 1, (1, 3, 1, 1)))
    noise = torch.from_numpy(random.normal(0, random.uniform(0, 0.04), tuple(seen.shape)))
    inverted = 1 - seen if random.random() < 0.5 else seen
    return ((contrast * inverted + (1 - contrast) * level) * tint + noise).clamp(0, 1).float()
