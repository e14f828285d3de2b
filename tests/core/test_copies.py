"""Models that look at each image five times: the same as averaging features by hand."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from metanas.adaptation.job import Job
from metanas.adaptation.metrics import meta_features
from metanas.adaptation.scheduler import adapt, make_all
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput
from metanas.evaluation.evaluate import supernet_logits
from metanas.export.onnx_model import Classifier, Encoder, to_onnx
from metanas.export.runtime import run, session
from metanas.images.shifted_copies import averaged, looks, with_copies
from metanas.images.support_set import Image, Preprocessing
from metanas.nn.ops import OPS
from metanas.nn.prototypes import PrototypeHead, membership
from metanas.spec.options import AdaptConfig
from metanas.supernet.discrete import DiscreteNetwork, features_of, freeze_statistics, from_supernet
from metanas.supernet.relaxations import Argmax
from metanas.supernet.supernet import genotype_of
from metanas.testing import make_checkpoint
from metanas.util.work import whole
from tests.core.small import RUN, SPACE, examples, findings, noise, small_supernet

OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=0.01, alpha_lr=0.1)
SHIFTED = OPTIONS.replace({"shift_pixels": 1})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("grey") / "tiny", size=12, options=OPTIONS)


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """An image (C, H, W) moved, pixel by pixel; zeros where it has been."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[:, y, x] = image[:, y - down, x - right]
    return out


def by_hand(network: DiscreteNetwork, images: Tensor, pixels: int) -> Tensor:
    """Means of features of every image and of its copies, one image at a time."""
    places = [(0, 0)] + [(y, x) for y in (-pixels, pixels) for x in (-pixels, pixels)]
    rows = []
    for image in images:
        found = [network(moved(image, *place)[None])[0] for place in places]
        rows.append(torch.stack(found).mean(0))
    return torch.stack(rows).detach()


def classifier(channels: int, size: int, pixels: int) -> Classifier:
    """A random network of frozen norms with a random head of three ways."""
    space = replace(SPACE, input_channels=channels, grid=2)
    supernet = small_supernet(space, seed=size)
    params = {name: value.detach() for name, value in supernet.named_parameters()}
    network = from_supernet(space, params, genotype_of(supernet, params), OPS)
    network.requires_grad_(False)
    whole(freeze_statistics(network, noise(6, channels, size, size), 6))
    preprocess = Preprocessing(size, (2.0, -1.5, 1.0)[:channels], (-0.5, 0.1, 0.3)[:channels])
    weight, bias = noise(3, space.features, seed=1), noise(3, seed=2)
    encoder = Encoder(preprocess, network, None, pixels)
    return Classifier((encoder,), weight, bias, torch.tensor(1.0))


def pixels_of(count: int, height: int, width: int, channels: int) -> Image:
    random = np.random.default_rng(count)
    return random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("pixels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (12, 9)])
def test_copies_are_the_image_moved_diagonally(pixels: int, height: int, width: int) -> None:
    images = noise(2, 3, height, width)
    seen = with_copies(images, pixels).unflatten(0, (looks(pixels), -1))
    assert torch.equal(seen[0], images)
    expected = [(y, x) for y in (pixels, -pixels) for x in (pixels, -pixels)]
    for copies, place in zip(seen[1:], expected, strict=True):
        assert torch.equal(copies, torch.stack([moved(image, *place) for image in images]))
    assert torch.equal(averaged(seen.flatten(0, 1).flatten(1), pixels), seen.mean(0).flatten(1))


def test_no_shift_leaves_everything_as_it_is() -> None:
    images = noise(3, 1, 8, 8)
    assert with_copies(images, 0) is images
    assert averaged(images, 0) is images
    assert looks(0) == 1


@pytest.mark.parametrize(
    ("channels", "size", "pixels"), [(1, 12, 1), (1, 13, 2), (3, 9, 1), (3, 14, 3)]
)
def test_onnx_runtime_agrees_with_torch(channels: int, size: int, pixels: int) -> None:
    model = classifier(channels, size, pixels)
    (encoder,) = model.encoders
    proto = to_onnx(model, OPS, {})
    onnx.checker.check_model(proto, full_check=True)
    runtime = session(proto.SerializeToString())
    for count, height, width in [(0, 12, 12), (1, size, size), (7, 17, 10)]:
        images = pixels_of(count, height, width, channels)
        logits, probabilities = runtime.run(["logits", "probabilities"], {"images": images})
        assert logits.shape == probabilities.shape == (count, 3)
        if count == 0:
            continue
        inputs = torch.cat([encoder.preprocess(image) for image in images])
        expected = by_hand(encoder.network, inputs, pixels) @ model.weight.T + model.bias
        tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(model.logits([inputs]), expected, atol=tolerance, rtol=0)
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=tolerance, rtol=0)
        alone = run(runtime, [images[-1]])
        np.testing.assert_allclose(alone[0], logits[-1], atol=tolerance, rtol=0)


def test_the_standard_taken_literally_gives_the_same() -> None:
    model = to_onnx(classifier(1, 12, 2), OPS, {})
    images = pixels_of(2, 17, 13, 1)
    (literal,) = ReferenceEvaluator(model).run(["logits"], {"images": images})
    found = torch.from_numpy(run(session(model.SerializeToString()), list(images)))
    torch.testing.assert_close(torch.from_numpy(literal), found, atol=1e-3, rtol=1e-4)


def test_the_graph_has_the_copies_and_nothing_else_more() -> None:
    """So without them it is what it was before there were any."""
    model = classifier(1, 12, 1)
    plain = replace(model, encoders=(replace(model.encoders[0], shift_pixels=0),))
    one, other = to_onnx(model, OPS, {}), to_onnx(plain, OPS, {})
    added, without = (Counter(node.op_type for node in each.graph.node) for each in (one, other))
    added.subtract(without)
    assert {kind: count for kind, count in added.items() if count} == {
        "Pad": 1,
        "Slice": 4,
        "Concat": 1,
        "Reshape": 1,
        "ReduceMean": 1,
    }
    assert not other.graph.value_info


def test_many_images_in_chunks() -> None:
    network = classifier(1, 9, 1).encoders[0].network
    images = noise(60, 1, 9, 9)
    expected = averaged(network(with_copies(images, 1)), 1)
    torch.testing.assert_close(
        whole(features_of(network, images, 1)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("shots", [(2, 1, 2), (1, 1)])
def test_a_model_is_prototypes_of_averaged_features(
    checkpoint: Checkpoint, shots: tuple[int, ...]
) -> None:
    given = examples(shots)
    job = Job(checkpoint, given, options=SHIFTED)
    make_all([job])
    model = job.result()
    assert job.adaptation is not None
    assert job.task is not None
    network, _ = whole(job.adaptation.network())
    support = job.task.support
    members = membership(support.labels, support.ways)
    scale = network.head["log_scale"].exp()
    features = by_hand(network, support.images, 1)
    weight, bias = PrototypeHead().linear(features, members, scale)
    queries = [np.asarray(example.image) for example in examples((3, 3), seed=1)]
    inputs = torch.cat([job.task.preprocess(image) for image in queries])
    logits = by_hand(network, inputs, 1) @ weight.T + bias
    expected = (logits / model.report.temperature).detach().numpy()
    tolerance = 1e-4 * max(1.0, float(np.abs(expected).max()))
    found = run(session(model.onnx), queries)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
    once = adapt(checkpoint, given, options=OPTIONS)
    assert np.abs(run(session(once.onnx), queries) - expected).max() > 10 * tolerance


def test_steps_and_architecture_stay_as_they_are(checkpoint: Checkpoint) -> None:
    once, shifted = (
        adapt(checkpoint, examples((2, 2)), options=options) for options in (OPTIONS, SHIFTED)
    )
    assert once.genotype == shifted.genotype
    assert once.report.parameters == shifted.report.parameters
    assert once.report.logit_gap == shifted.report.logit_gap
    assert shifted.report.macs == 5 * once.report.macs
    assert shifted.report.options["shift_pixels"] == 1


def test_the_supernet_of_an_evaluation_looks_as_often(checkpoint: Checkpoint) -> None:
    """Pruned and not tuned it is the network that left, so it must answer alike."""
    options = SHIFTED.replace({"tuning_steps": 0})
    job = Job(checkpoint, examples((2, 2, 2)), options=options)
    make_all([job])
    assert job.adaptation is not None
    queries = [np.asarray(example.image) for example in examples((2, 2), seed=3)]
    found = supernet_logits(job, queries, job.adaptation.soft, Argmax())
    model = job.result()
    expected = torch.from_numpy(run(session(model.onnx), queries)) * model.report.temperature
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_features_before_adaptation_do_not_depend_on_how_they_are_computed(
    checkpoint: Checkpoint,
) -> None:
    job = Job(checkpoint, examples((2, 2, 2)), options=SHIFTED)
    job.decode()
    assert job.task is not None
    support = job.task.support

    def features(**changes: int) -> Tensor:
        options = SHIFTED.replace(changes)
        return whole(meta_features(checkpoint, support, options))

    torch.testing.assert_close(features(batch_size=30), features(batch_size=6), atol=1e-4, rtol=0)
    assert not torch.allclose(features(), features(shift_pixels=0), atol=1e-2)


def test_a_shift_stays_below_a_quarter_of_the_side(checkpoint: Checkpoint) -> None:
    far = OPTIONS.replace({"shift_pixels": 3})
    replace(RUN, adapt=far, input=replace(RUN.input, size=13))
    attempts: dict[str, Callable[[], object]] = {
        "adapt": lambda: replace(RUN, adapt=far),  # 12 pixels, here and below
        "defaults": lambda: replace(checkpoint.card, defaults=far),
        "options": lambda: adapt(checkpoint, examples((1, 1)), options=far),
    }
    for section, attempt in attempts.items():
        with pytest.raises(InvalidInput, match="at most 2") as caught:
            attempt()
        assert findings(caught) == {(f"{section}.shift_pixels", "OPTION_OUT_OF_RANGE")}


def test_a_trunk_runs_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("photo") / "photo"
    photo = make_checkpoint(folder, size=32, channels=3, trunk=True, options=OPTIONS)
    with pytest.raises(InvalidInput, match="trunk") as caught:
        adapt(photo, examples((1, 1), channels=3), options=SHIFTED)
    assert findings(caught) == {("options.shift_pixels", "OPTION_OUT_OF_RANGE")}
