"""What can be said of an adaptation from its support set alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanas.adapt import SHARE_THRESHOLD, batches_of, upload
from metanas.augment import affine_views
from metanas.checkpoint import Checkpoint
from metanas.export import Classifier
from metanas.head import held_out_logits, membership
from metanas.kernels import Rows
from metanas.network import DiscreteNetwork, features_of, freeze_statistics, from_supernet
from metanas.optimizer import Params
from metanas.options import AdaptConfig, AffineRange
from metanas.relax import Decided, Softmax
from metanas.support import SupportSet


@dataclass(frozen=True)
class Gap:
    """Soft supernet against pruned network of the same weights, on views of the support images."""

    soft: float
    """Accuracy of the soft supernet, 0 to 1."""
    pruned: float
    """Accuracy of the pruned network, 0 to 1."""
    logits: float
    """Mean absolute difference of a logit."""


@torch.no_grad()
def gap(
    checkpoint: Checkpoint, params: Params, task: SupportSet, options: AdaptConfig, seed: int
) -> Gap:
    """Measure the gap on one batch of the support set, each image queried by a random view."""
    generator = torch.Generator().manual_seed(seed)
    rows = next(batches_of(task.labels, options.batch_size, generator))
    images = upload(task.images[rows], checkpoint.device)
    x = torch.cat([images, _views(images, checkpoint.card.augment, seed)])
    members = membership(task.labels[rows], task.ways).to(x.device)
    scale = params["head.log_scale"].exp()
    mixers = (Softmax(temperature=options.temperature_end), Decided())
    soft, pruned = (
        held_out_logits(out[: len(rows)], members, out[len(rows) :], scale)[:, members.any(0)]
        for out in (
            functional_call(
                checkpoint.supernet,
                params,
                (x, Rows(len(rows)), mixer, SHARE_THRESHOLD),
                tie_weights=False,
            )
            for mixer in mixers
        )
    )
    labels = members[:, members.any(0)].argmax(1)
    difference = float((soft - pruned).abs().mean())
    return Gap(_accuracy(soft, labels), _accuracy(pruned, labels), difference)


@torch.no_grad()
def view_accuracy(
    classifier: Classifier, task: SupportSet, augment: AffineRange, seed: int
) -> float:
    """Accuracy of the finished model on random views of the support images, 0 to 1."""
    right = 0.0
    for images, labels in zip(task.images.split(256), task.labels.split(256), strict=True):
        right += float((classifier.logits(_views(images, augment, seed)).argmax(1) == labels).sum())
    return right / len(task.labels)


@torch.no_grad()
def meta_features(checkpoint: Checkpoint, task: SupportSet, chunk: int) -> Tensor:
    """Features `(N, D)` of the support images before any adaptation: the pruned meta-network's.

    Only its normalisation statistics come from these images, as `freeze_statistics` takes them.
    """
    # A network of its own: to put other weights into the supernet would change it under the feet of
    # a step that another thread is at.
    params = {name: value.cpu() for name, value in checkpoint.params.items()}
    network = from_supernet(checkpoint.card.space, params, checkpoint.meta_genotype, checkpoint.ops)
    count = len(task.images)
    if count <= chunk:
        features: Tensor = network(task.images, Rows(count))
        return features
    freeze_statistics(network, task.images, chunk)
    return features_of(network, task.images)


def leave_one_out(features: Tensor, task: SupportSet, scale: Tensor) -> float | None:
    """Accuracy on support images against prototypes that were made without them, 0 to 1.

    Classes with one image take no part; None if no class has two. With features of a network that
    was adapted to the same images this says little: it is nearly always 1.
    """
    logits = held_out_logits(features, membership(task.labels, task.ways), features, scale)
    counted = torch.bincount(task.labels, minlength=task.ways)[task.labels] > 1
    return _accuracy(logits[counted], task.labels[counted]) if bool(counted.any()) else None


@torch.no_grad()
def macs_of(network: DiscreteNetwork, size: int) -> int:
    """Multiply-accumulates of the network for one image of `size` x `size` pixels.

    Of its weights with two dimensions or more: each is used once for every pixel that comes out.
    """
    counted = list[int]()

    def count(module: nn.Module, _inputs: object, out: Tensor) -> None:
        weights = (p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        counted.append(sum(weights) * (out.numel() // out.shape[1]))

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(torch.zeros(1, network.space.input_channels, size, size))
    for hook in hooks:
        hook.remove()
    return sum(counted)


def _views(images: Tensor, augment: AffineRange, seed: int) -> Tensor:
    return affine_views(images, augment, torch.Generator().manual_seed(seed))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())
