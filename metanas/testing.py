"""Contract checks and tiny checkpoints for tests of the core and of extensions.

Each `check_*` takes an extension and checks the contract that the algorithms need. The first
violation raises `AssertionError`. No test framework is needed.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from metanas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metanas.export.runtime import session
from metanas.nn.functional import Rows
from metanas.nn.onnx_graph import Graph
from metanas.nn.ops import OPS, Norm, Op
from metanas.nn.partial_channels import candidates
from metanas.nn.trunk import Trunk
from metanas.spec.card import CheckpointCard, InputSpec
from metanas.spec.options import AdaptConfig, AffineRange
from metanas.spec.search_space import SearchSpace
from metanas.supernet.adam import Moments
from metanas.supernet.flat_params import Layout
from metanas.supernet.relaxations import Relaxation
from metanas.supernet.supernet import Supernet, initialise
from metanas.training.inner_loop import InnerLoop
from metanas.training.meta_learners import MetaLearner
from metanas_data.datasets.stacks import Classes

STRIDES = (1, 2)
THREE = Rows(3)


def check_op(op: Op, *, channels: int = 4, sizes: Iterable[int] = range(1, 10)) -> None:
    """Check a candidate operation: shapes, rows, gradients, and ONNX against torch.

    Args:
        op: the operation.
        channels: its width; try an odd one too.
        sizes: sides of images; pairs of neighbouring sizes are heights and widths.
    """
    shapes = [shape for side in sizes for shape in ((side, side), (side, side + 1))]
    for stride in STRIDES:
        module = _seeded(op.build(channels, stride))
        _check_rows(module, channels)
        _check_gradients(module, channels)
        _check_copy(op, channels, stride)
        for height, width in shapes:
            out = module(_noise(3, channels, height, width), Rows(2))
            expected = (3, channels, -(-height // stride), -(-width // stride))
            fault = f"{height}x{width}, stride {stride}: {tuple(out.shape)}"
            _require(tuple(out.shape) == expected, fault)
        _check_emission(op, module, channels, shapes)


def check_relaxation(relaxation: Relaxation) -> None:
    """Check a relaxation: a distribution, zero for -inf, one-hot when cold, and seeded."""
    warm, cold = relaxation.at(1.0), relaxation.at(1e-5)
    _require(type(warm) is type(relaxation), "at() returns the same kind of relaxation")
    # 64 rows: two draws of one-hot weights are not equal by chance
    for shape in ((4,), (64, 4)):
        logits = _noise(*shape)
        logits[..., 1] = -torch.inf
        logits.requires_grad_()
        before = torch.get_rng_state()
        weights = warm.weights(logits, _generator())
        unmoved = bool(torch.equal(before, torch.get_rng_state()))
        _require(unmoved, "the global generator is left alone")
        _require(weights.shape == logits.shape, "weights have the shape of the logits")
        _require(bool((weights >= 0).all()), "weights are not negative")
        _close(weights.sum(-1), torch.ones(shape[:-1]), "weights sum to one")
        _require(bool((weights[..., 1] == 0).all()), "a logit of -inf has a weight of zero")
        _require(bool(torch.equal(weights, warm.weights(logits, _generator()))), "seeded")
        if weights.requires_grad:  # a fixed architecture is a relaxation too
            (gradient,) = torch.autograd.grad((weights * _noise(*shape)).sum(), logits)
            _require(bool(gradient.isfinite().all()), "gradients are finite beside -inf")
            _require(bool((gradient != 0).any()), "gradients reach the logits")
        frozen = cold.weights(logits.detach(), _generator())
        _require(float(frozen.amax(-1).min()) > 0.99, "cold: one-hot")


def check_meta_learner(meta_learner: MetaLearner) -> None:
    """Check a meta-learner on quadratic losses: shapes, direction, fixed point, stacks.

    Each task pulls the parameters to its own target. One parameter is in no loss.
    """
    start = {"weight": _noise(2, 3), "alpha.normal.ops": _noise(4), "idle": _noise(2)}
    layout = Layout(start)
    begin = layout.flatten(start)
    away = torch.tensor([1.0, 3.0])[:, None] * layout.where(lambda name: name != "idle")
    learned = meta_learner.learn(_quadratic(layout, begin, away))
    gradient, shape = learned.gradient, (2, layout.size)
    _require(tuple(gradient.shape) == shape, f"the meta-gradient has a row a task: {shape}")
    _require(gradient.dtype == begin.dtype, f"the meta-gradient is {begin.dtype}")
    _require(bool(gradient.isfinite().all()), "the meta-gradient is finite")
    expected = (2, len(layout.names))
    _require(tuple(learned.factors.shape) == expected, f"gradients of the factors: {expected}")
    _require(bool(learned.factors.isfinite().all()), "gradients of the factors are finite")
    _require(bool(torch.equal(begin, layout.flatten(start))), "the start is unchanged")
    views = layout.views(gradient)
    _close(views["idle"], torch.zeros(2, 2), "an idle parameter does not move")
    for name in ("weight", "alpha.normal.ops"):
        _require(float(views[name].sum()) < 0, f"{name}: towards the targets of the tasks")
    still = meta_learner.learn(_quadratic(layout, begin, 0 * away)).gradient
    _close(still, torch.zeros(shape), "tasks with nothing to learn move nothing")
    turned = meta_learner.learn(_quadratic(layout, begin, away.flip(0))).gradient
    _close(turned, gradient.flip(0), "the order of tasks does not matter")
    alone = meta_learner.learn(_quadratic(layout, begin, away[:1])).gradient
    _close(alone, gradient[:1], "a task gives the same alone and in a stack")


def _quadratic(layout: Layout, start: Tensor, away: Tensor) -> InnerLoop:
    """Make inner loops: a loss is half the squared distance to a row of `start + away`."""
    return InnerLoop(
        tasks=len(away),
        steps=2,
        layout=layout,
        start=start,
        rates=torch.full((layout.size,), 0.1),
        factors=torch.zeros(len(layout.names)),
        loss=lambda theta, number: 0.5 * (theta - start - away).square()[:, _used(layout)].sum(1),
        moments=Moments.zero(start, (2,)),
    )


def _used(layout: Layout) -> Tensor:
    return layout.where(lambda name: name != "idle")


def check_dataset(load: Callable[[Path], Classes], path: Path) -> None:
    """Check that `load(path)` returns class name -> uint8 images (N, C, H, W) of one size."""
    data = load(path)
    _require(len(data) > 0, "there are classes")
    for name, images in data.items():
        _require(bool(name.strip()), f"class {name!r} has a name")
        _require(images.dtype == np.uint8, f"{name!r}: uint8, not {images.dtype}")
        _require(images.ndim == 4 and len(images) > 0, f"{name!r}: (N, C, H, W): {images.shape}")
        _require(images.shape[1] in (1, 3), f"{name!r}: 1 or 3 channels, not {images.shape[1]}")
    shapes = {images.shape[1:] for images in data.values()}
    _require(len(shapes) == 1, f"all images have one shape, not {sorted(shapes)}")
    again = load(path)
    same = again.keys() == data.keys() and all(
        np.array_equal(images, again[name]) for name, images in data.items()
    )
    _require(same, "loading twice gives the same")


def freeze(module: nn.Module, seed: int = 0) -> None:
    """Give every norm in the module random frozen statistics."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, Norm):
            mean = torch.randn(norm.channels, generator=generator)
            norm.freeze(mean, torch.rand(norm.channels, generator=generator) + 0.5)


def _check_rows(module: nn.Module, channels: int) -> None:
    """Check that rows are independent of queries, and that the input is unchanged."""
    x = _noise(6, channels, 5, 6)
    before = x.clone()
    out = module(x, THREE)
    _require(bool(torch.equal(x, before)), "the input is unchanged")
    other = x.clone()
    other[5] = 100.0 * other[5] + 7.0
    _close(module(other, THREE)[:5], out[:5], "a query changes no other row")
    alone = module(torch.cat([x[:3], x[4:5]]), THREE)
    _close(alone[3:], out[4:5], "a query gives the same alone and with others")
    _close(module(x[:3], THREE), out[:3], "the support set gives the same without queries")


def _check_gradients(module: nn.Module, channels: int) -> None:
    x = _noise(6, channels, 5, 6).requires_grad_()
    out = module(x, THREE)
    leaves = [x, *module.parameters()]
    loss = (out * _noise(*out.shape)).sum()
    gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    for gradient in gradients:
        _require(bool(gradient.isfinite().all()), "gradients are finite")
        if bool((out != 0).any()):
            _require(bool((gradient != 0).any()), "the gradient reaches the input and every weight")


def _check_copy(op: Op, channels: int, stride: int) -> None:
    """Check that a module without weights takes those of another by name."""
    module = _seeded(op.build(channels, stride))
    with torch.device("meta"):
        empty = op.build(channels, stride)
    empty.load_state_dict(module.state_dict(), assign=True)
    x = _noise(4, channels, 5, 5)
    _close(empty(x, Rows(2)), module(x, Rows(2)), "weights carry over by name")


def _check_emission(
    op: Op, module: nn.Module, channels: int, shapes: Iterable[tuple[int, int]]
) -> None:
    freeze(module)
    graph = Graph()
    value = op.emit(graph, module, graph.input("x", TensorProto.FLOAT, ["N", channels, "H", "W"]))
    graph.output("y", value, ["N", channels, "h", "w"])
    model = session(graph.build("op", {}).SerializeToString())
    for height, width in shapes:
        x = _noise(3, channels, height, width)
        expected = module(x, Rows(0))
        _close(module(x[1:2], Rows(0)), expected[1:2], "frozen: rows are independent")
        actual = torch.from_numpy(model.run(["y"], {"x": x.numpy()})[0])
        _close(actual, expected, f"ONNX Runtime agrees with torch at {height}x{width}")


def _seeded(module: nn.Module) -> nn.Module:
    generator = _generator()
    with torch.no_grad():
        for parameter in module.parameters():
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return module


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator())


def _close(actual: Tensor, expected: Tensor, rule: str) -> None:
    _require(actual.shape == expected.shape, f"{rule}: {actual.shape} is not {expected.shape}")
    actual, expected = actual.detach(), expected.detach()
    scale = max(1.0, float(expected.abs().max()))
    difference = float((actual - expected).abs().max())
    _require(difference <= 1e-5 * scale, f"{rule}: off by {difference:.2g}")


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(f"contract violated: {rule}")


def make_checkpoint(  # noqa: PLR0913 (options of tests)
    folder: Path,
    *,
    channels: int = 1,
    size: int = 16,
    width: int = 4,
    trunk: bool = False,
    pools: tuple[tuple[int, int], ...] = (),
    seed: int = 0,
    options: AdaptConfig | None = None,
    ops: Mapping[str, Op] = OPS,
    partial: int = 1,
) -> Checkpoint:
    """Write and load a small untrained checkpoint, named by its folder.

    With `trunk`, the cells follow the first blocks of an untrained trunk; then `channels` must be
    3 and `size` a multiple of 8. With `pools`, the trunk has these features and no cells follow.
    """
    space = SearchSpace(
        input_channels=channels,
        ops=tuple(name for name in ops if name != "zero"),
        channels=() if pools else (width, width),
        reductions=() if pools else (1,),
        nodes=2,
        stem_channels=SearchSpace.stem_channels if trunk else (width, 2 * width),
        stem_stride=1,
        partial=partial,
        trunk="efficientnet-lite0" if trunk else "",
        taps=(1, 3),
        pools=pools,
    )
    supernet = Supernet(space, candidates(space, ops))
    initialise(supernet, torch.Generator().manual_seed(seed))
    front = _untrained(Trunk(space), seed) if trunk else None
    card = CheckpointCard(
        name=folder.name,
        description="An untrained network for tests.",
        input=InputSpec(
            channels=channels, size=size, mean=(0.0,) * channels, std=(1.0,) * channels
        ),
        space=space,
        defaults=options or AdaptConfig(steps=3, tuning_steps=2),
        augment=AffineRange(),
        parameters=0,
        weights_sha256="",
    )
    save_checkpoint(folder, card, supernet, dict(supernet.named_parameters()), front)
    return load_checkpoint(folder, ops=ops)


def _untrained(trunk: Trunk, seed: int) -> Trunk:
    """Give the trunk random weights that keep the scale of activations."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trunk.parameters():
        bound = (3 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.uniform_(-bound, bound, generator=generator)
    return trunk
