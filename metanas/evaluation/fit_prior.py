"""Fit and validate a prior over checkpoints, on episodes of several data sets.

The accuracy of a checkpoint in an episode is that of its pruned meta-network without a step.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metanas import __version__
from metanas.adaptation.prior import describe_thumbnails, thumbnails
from metanas.checkpoint import Checkpoint
from metanas.images.support_set import Image, preprocessing_for
from metanas.nn.heads import HEADS
from metanas.nn.prototypes import membership
from metanas.spec.prior import Prior
from metanas.supernet.discrete import features_of, freeze_statistics, from_supernet
from metanas.util.work import whole
from metanas_data.arrays import with_channels
from metanas_data.datasets.dataset import pixels, read_dataset
from metanas_data.datasets.episodes import draw_rows
from metanas_data.errors import DatasetError

WAYS, SHOTS = 5, (1, 5)
CLASSES = 40
"""Most classes of a data set that take part."""
IMAGES = 8
"""Most images of a class that take part; all that are no support images are queries."""
ALTERED = 4
"""Descriptions of an episode, all but the first of altered images: the choice then depends less on
their origin."""
DECAY = 1e-3
"""Weight of the squared weights in the loss."""

Rows = Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Class of an episode -> positions of its support images and of its queries."""


class Episodes(NamedTuple):
    """Episodes of some classes of a data set, numbers of shots in turn."""

    descriptions: Tensor
    """`(E, DESCRIPTION)`; `ALTERED` of each episode, the first of the images as they are."""
    accuracies: Tensor
    """Accuracies of each checkpoint, `(E, K)`, 0 to 1."""


class Validation(NamedTuple):
    """Mean accuracies on a data set, 0 to 1."""

    data: str
    shots: int
    checkpoints: list[float]
    prior: float
    """Of the checkpoint that a prior chooses; it was fitted on other classes."""
    left_out: float
    """The same, by a prior that was fitted on other data sets."""


def fit_prior(
    checkpoints: Mapping[str, Checkpoint],
    paths: Sequence[Path],
    episodes: int,
    on_data: Callable[[Path], None] = lambda path: None,
) -> tuple[Prior, list[Validation]]:
    """Fit a prior on the val classes of data sets, or on all classes where there is no such split.

    On train classes a checkpoint that was trained on them would look better than it is. For the
    validation a prior is fitted on each half of the classes.

    episodes: of each half and number of shots.
    on_data: called before each data set is read.

    Raises:
        DatasetError: a data set cannot be used.
    """
    halves: tuple[list[Episodes], list[Episodes]] = ([], [])
    for path in paths:
        on_data(path)
        images = _read(path)
        for half, drawn in enumerate(halves):
            some = {name: images[name] for name in list(images)[half::2]}
            drawn.append(_measure(checkpoints, some, episodes))
    weights, bias = fit([*halves[0], *halves[1]])
    prior = Prior(
        checkpoints={name: each.card.digest for name, each in checkpoints.items()},
        weights=tuple(tuple(round(number, 4) for number in row) for row in weights.tolist()),
        bias=tuple(round(number, 4) for number in bias.tolist()),
        provenance={
            "data": ", ".join(path.name for path in paths),
            "software": f"metanas {__version__}, torch {torch.__version__}",
        },
    )
    return prior, _validate(paths, halves)


def _validate(
    paths: Sequence[Path], halves: tuple[list[Episodes], list[Episodes]]
) -> list[Validation]:
    across = [fit(half) for half in reversed(halves)]
    rows = list[Validation]()
    for index, path in enumerate(paths):
        others = [half[:index] + half[index + 1 :] for half in halves]
        left_out = fit(others[0] + others[1] or [half[index] for half in halves])
        for first, shots in enumerate(SHOTS):
            every = slice(first * ALTERED, None, len(SHOTS) * ALTERED)
            parts = [Episodes(*(each[every] for each in half[index])) for half in halves]
            both = Episodes(*map(torch.cat, zip(*parts, strict=True)))
            means = both.accuracies.mean(0).tolist()
            chosen = [_chosen(*pair) for pair in zip(parts, across, strict=True)]
            figures = sum(chosen) / len(chosen), _chosen(both, left_out)
            rows.append(Validation(path.stem, shots, means, *figures))
    return rows


def fit(episodes: Sequence[Episodes]) -> tuple[Tensor, Tensor]:
    """Fit weights `(K, DESCRIPTION)` and bias `(K,)` of a logistic regression.

    An episode counts for each checkpoint by its gain in accuracy over the worst one. With two
    checkpoints the more probable one is then that of the larger mean accuracy.
    """
    descriptions = torch.cat([each.descriptions for each in episodes]).double()
    accuracies = torch.cat([each.accuracies for each in episodes]).double()
    gains = accuracies - accuracies.amin(1, keepdim=True)
    gains = gains / gains.sum().clamp(min=1e-9)
    centre, spread = descriptions.mean(0), descriptions.std(0).clamp(min=1e-3)
    x = torch.cat([(descriptions - centre) / spread, torch.ones_like(descriptions[:, :1])], dim=1)
    weights = torch.zeros(gains.shape[1], x.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = DECAY * weights.square().sum() - (gains * (x @ weights.T).log_softmax(1)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    scaled = weights.detach()[:, :-1] / spread
    return scaled, weights.detach()[:, -1] - scaled @ centre


def _chosen(episodes: Episodes, prior: tuple[Tensor, Tensor]) -> float:
    """Return the mean accuracy of the checkpoints that a prior chooses, 0 to 1."""
    weights, bias = prior
    chosen = (episodes.descriptions.double() @ weights.T + bias).argmax(1)
    return float(episodes.accuracies.gather(1, chosen[:, None]).mean())


def _measure(
    checkpoints: Mapping[str, Checkpoint], images: Mapping[str, Sequence[Image]], episodes: int
) -> Episodes:
    """Draw episodes of these classes, and measure each checkpoint on them."""
    inputs = {name: _inputs(each, images) for name, each in checkpoints.items()}
    sizes = {name: len(each) for name, each in images.items()}
    random = np.random.default_rng(0)
    descriptions, accuracies = list[Tensor](), list[list[float]]()
    for shots in SHOTS * episodes:
        rows = draw_rows(sizes, WAYS, shots, IMAGES, random)
        places = [(name, row) for name, (support, _) in rows.items() for row in support]
        thumbnail_pixels = thumbnails(
            [images[name][row] for name, row in places], [name for name, _ in places]
        )
        descriptions += [
            describe_thumbnails(each, shots) for each in _altered(thumbnail_pixels, random)
        ]
        figures = [_accuracy(each, inputs[name], rows) for name, each in checkpoints.items()]
        accuracies += [figures] * ALTERED
    return Episodes(torch.stack(descriptions), torch.tensor(accuracies))


def _altered(pixels: Tensor, random: np.random.Generator) -> list[Tensor]:
    """Return thumbnails as they are, out of focus, and both as if photographed from paper."""
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return [pixels, blurred, *(_from_paper(each, random) for each in (pixels, blurred))]


def _from_paper(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Invert thumbnails or not, and give them less contrast, a tint and noise."""
    contrast, level = random.uniform(0.5, 1), random.random()
    tint = torch.from_numpy(random.uniform(0.85, 1, (3, 1, 1)))
    noise = torch.from_numpy(random.normal(0, 0.02, tuple(pixels.shape)))
    turned = 1 - pixels if random.random() < 0.5 else pixels
    return ((contrast * turned + (1 - contrast) * level) * tint + noise).clamp(0, 1).float()


def _read(path: Path) -> dict[str, list[Image]]:
    """Decode the first images of some classes, evenly spaced."""
    least = max(SHOTS) + 1
    classes = {k: v for k, v in read_dataset(path).classes.items() if len(v) >= least}
    if len(classes) < 2 * WAYS:
        message = f"{path} has {len(classes)} classes of {least} images or more to validate on; "
        raise DatasetError("DATASET_TOO_FEW_CLASSES", f"{message}{2 * WAYS} are needed")
    places = np.linspace(0, len(classes) - 1, min(len(classes), CLASSES)).astype(int)
    names = [list(classes)[place] for place in places]
    return {name: [pixels(image, 3) for image in classes[name][:IMAGES]] for name in names}


def _inputs(checkpoint: Checkpoint, images: Mapping[str, Sequence[Image]]) -> dict[str, Tensor]:
    """Preprocess the images of each class; behind a trunk, return its rows."""
    spec, trunk = checkpoint.card.input, checkpoint.trunk
    groups = {
        name: [with_channels(image, spec.channels) for image in each]
        for name, each in images.items()
    }
    preprocess = preprocessing_for([image for each in groups.values() for image in each], spec)
    inputs = {
        name: torch.cat([preprocess(image) for image in each]) for name, each in groups.items()
    }
    return inputs if trunk is None else {name: trunk(each) for name, each in inputs.items()}


@torch.no_grad()
def _accuracy(checkpoint: Checkpoint, inputs: Mapping[str, Tensor], rows: Rows) -> float:
    """Classify the queries of an episode, without a step; 0 to 1."""
    support, queries = (
        torch.cat([inputs[name][pair[part]] for name, pair in rows.items()]) for part in (0, 1)
    )
    support_labels, labels = (
        torch.cat([torch.full((len(pair[part]),), way) for way, pair in enumerate(rows.values())])
        for part in (0, 1)
    )
    card, genotype = checkpoint.card, checkpoint.meta_genotype
    network = from_supernet(card.space, checkpoint.params, genotype, checkpoint.ops)
    features = whole(freeze_statistics(network, support, card.defaults.batch_size))
    head, scale = HEADS[card.defaults.head], network.head["log_scale"].exp()
    weight, bias = head.linear(features, membership(support_labels, len(rows)), scale)
    logits = whole(features_of(network, queries)) @ weight.T + bias
    return float((logits.argmax(1) == labels).float().mean())
