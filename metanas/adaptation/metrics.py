"""Metrics of an adaptation, from its support set alone."""

import hashlib
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanas.adaptation.objective import SHARE_THRESHOLD
from metanas.adaptation.views import draw_views
from metanas.checkpoint import Checkpoint
from metanas.export.onnx_model import Classifier, Encoder, to_onnx
from metanas.export.runtime import session
from metanas.images.batches import batches_of
from metanas.images.shifted_copies import averaged, looks, with_copies
from metanas.images.support_set import SupportSet, preprocessing_for
from metanas.nn.devices import upload
from metanas.nn.functional import Rows
from metanas.nn.heads import HEADS
from metanas.nn.prototypes import membership
from metanas.nn.stem import METRIC
from metanas.spec.options import AdaptConfig, AffineRange
from metanas.supernet.discrete import (
    DiscreteNetwork,
    chunk_size,
    features_of,
    freeze_statistics,
    from_supernet,
)
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Argmax, PerTask, Relaxation, Softmax
from metanas.util.work import Parts, whole

LARGE = 170 * 2**20
"""Bytes of activations from which `gap` evaluates one network and one edge at a time."""

WARM_UP = 5
"""Runs of a model before its time is measured."""

REPORT_VIEWS = "report views"
"""Name of the random stream of the report's views; the search draws from another stream."""


def stream(seed: int, name: str) -> torch.Generator:
    """Make a generator for one purpose, independent of those with another seed or name."""
    digest = hashlib.sha256(f"{name} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


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
    rows = next(batches_of(task.labels, options.batch_size, stream(seed, "report batch")))
    (images,) = upload([task.images[rows]], checkpoint.device)
    stored: Tensor | None = None
    if task.views is not None:
        (stored,) = upload([task.views[rows]], checkpoint.device)
    views = draw_views(images, stored, checkpoint.card.augment, stream(seed, REPORT_VIEWS))
    x = torch.cat([images, views])
    relaxations = (Softmax(temperature=options.temperature_end), Argmax())
    # a stack of two tasks with different relaxations, unless that would take much memory
    large = 2 * len(x) * sum(checkpoint.activation_bytes) > LARGE
    stacks = [(relaxation,) for relaxation in relaxations] if large else [relaxations]
    features = [_features(checkpoint, params, x, stack, large) for stack in stacks]
    support, views = torch.cat(features).unflatten(1, (2, -1)).unbind(1)
    members = membership(task.labels[rows], task.ways).to(x.device).expand(2, -1, -1)
    scale = params["head.log_scale"].exp().expand(2)
    logits = HEADS[options.head].held_out(support, members, views, scale)
    members = members[0]
    soft, pruned = logits[:, :, members.any(0)]  # the classes in this mini-batch
    labels = members[:, members.any(0)].argmax(1)
    difference = float((soft - pruned).abs().mean())
    return Gap(_accuracy(soft, labels), _accuracy(pruned, labels), difference)


def _features(
    checkpoint: Checkpoint,
    params: Params,
    x: Tensor,
    relaxations: Sequence[Relaxation],
    by_edge: bool,
) -> Tensor:
    """Compute features `(relaxations, rows, D)`; half of the rows are support."""
    count = len(relaxations)
    if count > 1:
        params = {name: value.expand(count, *value.shape) for name, value in params.items()}
    rows = Rows(len(x) // 2, count)
    unused = torch.Generator()  # softmax and argmax draw nothing
    relaxation = PerTask(tuple(relaxations), (unused,) * count)
    arguments = (torch.cat([x] * count), rows, relaxation, SHARE_THRESHOLD)
    recompute = checkpoint.card.space.cells if by_edge else 0
    with checkpoint.using:
        out: Tensor = functional_call(
            checkpoint.supernet, params, arguments, {"recompute": recompute}, tie_weights=False
        )
    return out.view(count, len(x), -1)


@torch.no_grad()
def view_accuracy(
    classifier: Classifier, tasks: Sequence[SupportSet], ranges: Sequence[AffineRange], seed: int
) -> Parts[float]:
    """Measure the accuracy of the finished model on random views of the support images, 0 to 1.

    tasks, ranges: the support set as each encoder gets it, and the ranges of its views. All
        encoders see the same views.
    """
    labels, shift = tasks[0].labels, classifier.shift_pixels
    correct, generators = 0.0, [stream(seed, REPORT_VIEWS) for _ in tasks]
    count = min(chunk_size(task.images, shift) for task in tasks)
    for part in torch.arange(len(labels)).split(count):
        yield
        views = [
            draw_views(
                task.images[part], None if task.views is None else task.views[part], each, drawn
            )
            for task, each, drawn in zip(tasks, ranges, generators, strict=True)
        ]
        correct += float((classifier.logits(views).argmax(1) == labels[part]).sum())
    return correct / len(labels)


@torch.no_grad()
def query_macs(classifier: Classifier, tasks: Sequence[SupportSet]) -> int:
    """Count the multiply-accumulates of the finished model for one image, trunks included."""
    macs, trunks = 0, set[tuple[int, int]]()
    for encoder, task in zip(classifier.encoders, tasks, strict=True):
        macs += macs_of(encoder.network, with_copies(task.images[:1], encoder.shift_pixels))
        size = encoder.preprocess.size
        if encoder.trunk is not None and (id(encoder.trunk), size) not in trunks:
            trunks.add((id(encoder.trunk), size))
            macs += macs_of(encoder.trunk, torch.zeros(1, 3, size, size))
    return macs


def weights_of_network(network: DiscreteNetwork) -> int:
    """Count the weights of a pruned network that are in an exported file."""
    embed, named = network.embed, dict(network.named_parameters())
    without = {"head.log_scale"}
    if embed is not None and embed.identity:
        without.add(METRIC)
    return sum(value.numel() for name, value in named.items() if name not in without)


def weights_of(classifier: Classifier) -> int:
    """Count the weights of the exported network, trunks and head included.

    Encoders of one checkpoint at two sizes share trunk and metric.
    """
    trunks = {id(each.trunk): each.trunk for each in classifier.encoders if each.trunk is not None}
    weights = sum(value.numel() for trunk in trunks.values() for value in trunk.parameters())
    metrics = list[Tensor]()
    for network in (encoder.network for encoder in classifier.encoders):
        weights += weights_of_network(network)
        if network.embed is None or network.embed.identity:
            continue
        metric = network.embed.project.weight
        weights -= metric.numel() * any(torch.equal(metric, other) for other in metrics)
        metrics.append(metric)
    return weights + classifier.weight.numel() + classifier.bias.numel()


@torch.no_grad()
def meta_features(checkpoint: Checkpoint, task: SupportSet, options: AdaptConfig) -> Parts[Tensor]:
    """Compute features `(N, D)` of the support images by the pruned meta-network.

    Only its normalisation statistics come from these images, as `freeze_statistics` takes them.
    """
    params = checkpoint.params
    count, chunk, shift = len(task.images), options.batch_size, options.shift_pixels
    if count * looks(shift) <= chunk:
        (images,) = upload([with_copies(task.images, shift)], checkpoint.device)
        arguments = (images, Rows(count), Argmax())
        with checkpoint.using:
            features: Tensor = functional_call(
                checkpoint.supernet, params, arguments, tie_weights=False
            )
        return averaged(features.cpu(), shift)
    params = {name: value.cpu() for name, value in params.items()}
    genotype = checkpoint.meta_genotype
    network = from_supernet(checkpoint.card.space, params, genotype, checkpoint.ops)
    features = yield from freeze_statistics(network, task.images, chunk)
    return (yield from features_of(network, task.images, shift)) if shift else features


@torch.no_grad()
def meta_model(checkpoint: Checkpoint, shift_pixels: int = 0) -> tuple[Classifier, SupportSet]:
    """Build a model of two classes with the meta-architecture and a head of zeros.

    Returns the model, and a support set of one black image for it.
    """
    card, trunk = checkpoint.card, checkpoint.trunk
    params = {name: value.cpu() for name, value in checkpoint.params.items()}
    network = from_supernet(card.space, params, checkpoint.meta_genotype, checkpoint.ops)
    if trunk is not None and checkpoint.device.type != "cpu":
        trunk = deepcopy(trunk).cpu()
    preprocess = preprocessing_for([], card.input)
    unit = not card.space.unit_features
    encoder = Encoder(preprocess, network, trunk, shift_pixels, unit)
    inputs = encoder.inputs(np.zeros((card.input.size,) * 2 + (card.input.channels,), np.uint8))
    whole(freeze_statistics(network, inputs, 1))
    weight, bias = torch.zeros(2, card.space.features), torch.zeros(2)
    task = SupportSet(inputs, torch.zeros(1, dtype=torch.long), ("0", "1"))
    return Classifier((encoder,), weight, bias, torch.tensor(1.0)), task


def overhead_of(checkpoint: Checkpoint) -> int:
    """Count the bytes of a model's file beside its weights and its metadata.

    It consists of the graph and of constants. It may be negative: norms are folded into
    convolutions.
    """
    classifier, _ = meta_model(checkpoint)
    return to_onnx(classifier, checkpoint.ops, {}).ByteSize() - 4 * weights_of(classifier)


def milliseconds_of(checkpoint: Checkpoint, runs: int) -> float:
    """Measure the median time of ONNX Runtime for one image of the input size, on one thread."""
    classifier, _ = meta_model(checkpoint)
    model = session(to_onnx(classifier, checkpoint.ops, {}).SerializeToString())
    spec, seconds = checkpoint.card.input, list[float]()
    image = np.zeros((1, spec.size, spec.size, spec.channels), np.uint8)
    for _ in range(WARM_UP + runs):
        begin = time.perf_counter()
        model.run(["logits"], {"images": image})
        seconds.append(time.perf_counter() - begin)
    return 1000 * median(seconds[WARM_UP:])


def macs_of(network: nn.Module, images: Tensor) -> int:
    """Count the multiply-accumulates of a network on these images.

    Only weights with two dimensions or more count: each is used once for every pixel of an output.
    """
    macs = 0

    def count(module: nn.Module, _inputs: object, out: Tensor | tuple[Tensor, ...]) -> None:
        nonlocal macs
        weights = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        if weights:
            first = out[0] if isinstance(out, tuple) else out  # the stem returns its output twice
            macs += weights * (first.numel() // first.shape[1])

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    network(images)
    for hook in hooks:
        hook.remove()
    return macs


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())
