"""The whole job in process: images in, a checked ONNX file and its report out."""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from metanas import __version__
from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metanas.errors import Cancelled, Diverged, InvalidInput
from metanas.export.runtime import run, session
from metanas.spec.examples import Example, Limits
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.testing import make_checkpoint
from tests.core.small import examples

STAGES = ["decode", "adapt", "prune", "tune", "export", "check"]
OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=0.01, alpha_lr=0.1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("grey") / "tiny", size=12, options=OPTIONS)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("colour") / "colour"
    return make_checkpoint(folder, size=12, channels=3, options=OPTIONS)


def metadata(model: AdaptedModel) -> dict[str, str]:
    proto = onnx.load_model(BytesIO(model.onnx))
    return {entry.key.removeprefix("metanas."): entry.value for entry in proto.metadata_props}


def predict(model: AdaptedModel, given: Sequence[Example]) -> list[str]:
    images = [np.asarray(example.image) for example in given]
    return [model.labels[i] for i in run(session(model.onnx), images).argmax(1)]


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> AdaptedModel:
    return adapt(checkpoint, examples((2, 1, 3)), seed=5)


def test_the_file_explains_itself(model: AdaptedModel, checkpoint: Checkpoint) -> None:
    told = metadata(model)
    assert json.loads(told["labels"]) == list(model.labels)
    assert Genotype.from_json(told["genotype"]) == model.genotype
    assert told["checkpoint"] == "tiny"
    assert told["checkpoint_digest"] == checkpoint.card.digest
    assert told["support_digest"] == model.report.support_digest
    assert told["seed"] == "5"
    assert told["version"] == __version__
    assert json.loads(told["input"]) == {"channels": 1, "size": 12}
    assert json.loads(told["options"]) == OPTIONS.to_dict()
    assert json.loads(told["cells"]) == {"cells": 2, "reductions": [1]}
    assert model.sha256 == hashlib.sha256(model.onnx).hexdigest()


def test_the_conformance_vector_is_met(model: AdaptedModel) -> None:
    vector = json.loads(metadata(model)["conformance"])
    image = np.frombuffer(base64.b64decode(vector["image"]), np.uint8).reshape(vector["shape"])
    (logits,) = run(session(model.onnx), [image])
    assert np.abs(logits - np.array(vector["logits"])).max() <= vector["tolerance"]


def test_the_report(model: AdaptedModel, checkpoint: Checkpoint) -> None:
    report = model.report
    assert json.loads(report.to_json())["support_digest"] == report.support_digest
    assert (report.ways, report.shots, report.seed) == (3, (2, 1, 3), 5)
    assert (report.steps, report.tuning_steps) == (3, 2)
    assert report.options == OPTIONS.to_dict()
    assert report.onnx_bytes == len(model.onnx)
    assert list(report.seconds) == [*STAGES, "report"]
    assert 0 < report.parameters < checkpoint.card.parameters
    assert report.macs > report.parameters
    assert report.genotype == json.loads(model.genotype.to_json())
    assert report.onnx_difference < 1e-3
    for accuracy in (report.accuracy, report.accuracy_soft, report.accuracy_pruned):
        assert 0 <= accuracy <= 1
    estimate = report.leave_one_out
    assert estimate is not None
    assert 0 <= estimate.low <= estimate.accuracy <= estimate.high <= 1
    assert [each.images for each in estimate.classes] == [2, 0, 3]
    distance = model.genotype.distance(checkpoint.meta_genotype)
    assert report.meta_genotype_distance == distance


def test_one_shot_has_nothing_to_leave_out(checkpoint: Checkpoint) -> None:
    assert adapt(checkpoint, examples((1, 1))).report.leave_one_out is None


def test_the_same_request_gives_the_same_bytes(model: AdaptedModel, checkpoint: Checkpoint) -> None:
    torch.rand(3)  # whatever the global generator's state
    state = torch.get_rng_state()
    again = adapt(checkpoint, examples((2, 1, 3)), seed=5)
    assert (again.onnx, again.genotype) == (model.onnx, model.genotype)
    assert torch.equal(state, torch.get_rng_state())
    other = adapt(checkpoint, examples((2, 1, 3)), seed=6)
    assert other.sha256 != model.sha256


def test_a_checkpoint_loaded_again_gives_the_same_bytes(
    model: AdaptedModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "copy", checkpoint.card, checkpoint.supernet, checkpoint.params)
    again = adapt(load_checkpoint(tmp_path / "copy"), examples((2, 1, 3)), seed=5)
    assert again.sha256 == model.sha256


PROGRAM = """
import sys
from pathlib import Path
import torch
from metanas.checkpoint import load_checkpoint
from metanas.adaptation.scheduler import adapt
from tests.core.small import examples

torch.set_num_threads(1)
print(adapt(load_checkpoint(Path(sys.argv[1])), examples((2, 1, 3)), seed=5).sha256)
"""


@pytest.mark.slow
def test_every_process_gives_the_same_bytes(
    model: AdaptedModel, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "copy", checkpoint.card, checkpoint.supernet, checkpoint.params)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "copy")],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == model.sha256


@pytest.mark.parametrize("shots", [(1, 1), (5, 1, 2), (1,) * 20, (8, 8)])
def test_any_ways_and_shots(checkpoint: Checkpoint, shots: tuple[int, ...]) -> None:
    given = examples(shots)
    made = adapt(checkpoint, given)
    assert made.report.shots == shots
    assert made.labels == tuple(dict.fromkeys(example.label for example in given))


def test_a_hundred_ways(checkpoint: Checkpoint) -> None:
    made = adapt(checkpoint, examples((1,) * 100), options=OPTIONS.replace({"steps": 1}))
    assert made.report.ways == len(made.labels) == 100


def test_classes_in_the_callers_order(checkpoint: Checkpoint) -> None:
    given = examples((2, 2, 2))
    order = [given[4].label, given[0].label, given[2].label]
    made = adapt(checkpoint, given, classes=order)
    assert made.labels == tuple(order)
    assert made.report.shots == (2, 2, 2)
    with pytest.raises(InvalidInput) as caught:
        adapt(checkpoint, given, classes=[*order, "nobody"])
    assert caught.value.reason == "CLASS_WITHOUT_EXAMPLES"


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"tuning_steps": 0},
        {"steps": 0, "tuning_steps": 0},
        {"steps": 1},
        {"bilevel": True},
        {"batch_size": 2},
        {"batch_size": 1},
        {"batch_size": 4, "bilevel": True},
        {"alpha_lr": 0.0},
        {"temperature_start": 0.001, "temperature_end": 0.001},
        {"head": "ridge"},
        {"head": "ridge", "steps": 0, "tuning_steps": 0},
        {"head": "ridge", "batch_size": 2, "bilevel": True},
    ],
)
def test_options(checkpoint: Checkpoint, change: dict[str, Any]) -> None:
    options = OPTIONS.replace(change)
    seen: list[Progress] = []
    made = adapt(checkpoint, examples((3, 1, 2)), options=options, on_progress=seen.append)
    assert made.report.options == options.to_dict()
    assert sum(p.stage == "adapt" for p in seen) == options.steps + 1
    assert sum(p.stage == "tune" for p in seen) == options.tuning_steps + 1
    if options.steps == 0:
        assert made.genotype == checkpoint.meta_genotype
        assert made.report.meta_genotype_distance == 0


def test_progress_comes_stage_by_stage_and_step_by_step(checkpoint: Checkpoint) -> None:
    seen: list[Progress] = []
    adapt(checkpoint, examples((2, 2)), on_progress=seen.append)
    assert list(dict.fromkeys(p.stage for p in seen)) == STAGES
    steps = [(p.step, p.steps) for p in seen if p.stage == "adapt"]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    reported = [p for p in seen if p.stage == "adapt" and p.step]
    assert all(np.isfinite([p.loss, p.accuracy, p.temperature]).all() for p in reported)
    temperatures = [p.temperature for p in reported]
    assert temperatures == sorted(temperatures, reverse=True)


def progress_until(checkpoint: Checkpoint, stop: Callable[[Progress], bool]) -> list[Progress]:
    """The progress of an adaptation that is cancelled once `stop` is true of the last one."""
    progress: list[Progress] = []
    with pytest.raises(Cancelled) as caught:
        adapt(
            checkpoint,
            examples((2, 2)),
            on_progress=progress.append,
            should_stop=lambda: bool(progress) and stop(progress[-1]),
        )
    assert caught.value.reason == "CANCELLED"
    return progress


@pytest.mark.parametrize(("stage", "following"), list(pairwise(STAGES)))
def test_cancelling_in_any_stage(checkpoint: Checkpoint, stage: str, following: str) -> None:
    before = {name: value.clone() for name, value in checkpoint.params.items()}
    progress = progress_until(checkpoint, lambda last: last.stage == stage)
    assert sum(p.stage == stage for p in progress) == 1  # no step was taken
    assert following not in {p.stage for p in progress}
    assert all(torch.equal(before[k], v) for k, v in checkpoint.params.items())


def test_cancelling_between_two_steps(checkpoint: Checkpoint) -> None:
    last = progress_until(checkpoint, lambda last: last.step == 2)[-1]
    assert (last.stage, last.step) == ("adapt", 2)


@pytest.mark.parametrize("change", [{}, {"bilevel": True}, {"batch_size": 2}])
def test_absurd_learning_rates_diverge_or_are_survived(
    checkpoint: Checkpoint, change: dict[str, Any]
) -> None:
    options = OPTIONS.replace({"steps": 10, "weight_lr": 1.0, "alpha_lr": 1.0, **change})
    before = {name: value.clone() for name, value in checkpoint.params.items()}
    with suppress(Diverged):
        assert adapt(checkpoint, examples((2, 2)), options=options).onnx
    assert all(torch.equal(before[k], v) for k, v in checkpoint.params.items())


def png(image: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def as_float(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (image / 255).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_and_arrays_of_the_same_image_give_the_same_model(
    checkpoint: Checkpoint, colour: Checkpoint, channels: int
) -> None:
    given = examples((2, 2), channels=channels)
    forms: list[Callable[[NDArray[np.uint8]], Any]] = [png, as_float, np.copy]
    digests = set()
    for form in forms:
        converted = [Example(e.label, form(np.asarray(e.image))) for e in given]
        digests.add(adapt(colour if channels == 3 else checkpoint, converted).sha256)
    assert len(digests) == 1


def test_floats_are_rounded_to_the_eight_bits_that_queries_have(checkpoint: Checkpoint) -> None:
    images = [np.asarray(example.image).clip(1, 254) for example in examples((1, 1))]
    digests = set()
    for off in (-0.4, 0.0, 0.4):
        floats = [((image + off) / 255).astype(np.float32) for image in images]
        given = [Example(label, image) for label, image in zip("ab", floats, strict=True)]
        digests.add(adapt(checkpoint, given).sha256)
    assert len(digests) == 1


def test_images_of_mixed_sizes_and_channels(checkpoint: Checkpoint, colour: Checkpoint) -> None:
    grey, rgb = examples((1, 1), size=9), examples((1, 1), size=30, channels=3)
    mixed = [*grey, *(Example(e.label, png(np.asarray(e.image))) for e in rgb)]
    for each in (checkpoint, colour):
        made = adapt(each, mixed)
        assert made.report.shots == (2, 2)


def test_light_support_sets_are_inverted_and_so_are_their_queries(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    card = replace(checkpoint.card, input=replace(checkpoint.card.input, dark_background=True))
    save_checkpoint(tmp_path / "dark", card, checkpoint.supernet, checkpoint.params)
    dark = load_checkpoint(tmp_path / "dark")
    given = [
        Example(e.label, np.pad(np.asarray(e.image), ((3, 3), (3, 3), (0, 0))))
        for e in examples((2, 2))
    ]
    negative = [Example(e.label, (255 - np.asarray(e.image)).astype(np.uint8)) for e in given]
    # Adam's first step has the same length however small a gradient is, rounding errors included
    options = card.defaults.replace({"weight_lr": 1e-6, "alpha_lr": 1e-6})
    one, two = (adapt(dark, each, options=options) for each in (given, negative))
    assert one.genotype == two.genotype
    logits = [
        run(session(made.onnx), [np.asarray(e.image) for e in sent])
        for made, sent in ((one, given), (two, negative))
    ]
    assert np.abs(logits[0] - logits[1]).max() < 1e-3


def test_every_image_that_cannot_be_read_is_named(checkpoint: Checkpoint) -> None:
    given: list[Example] = examples((2, 2))
    given[1] = Example(given[1].label, b"no image")
    given[2] = Example(given[2].label, np.full((8, 8, 1), np.nan, np.float32))
    given[3] = Example(given[3].label, png(np.asarray(given[3].image))[:40])
    with pytest.raises(InvalidInput) as caught:
        adapt(checkpoint, given)
    found = [(v.field, v.reason) for v in caught.value.violations]
    assert found == [
        ("examples[1].image", "IMAGE_FORMAT"),
        ("examples[2].image", "TENSOR_NOT_FINITE"),
        ("examples[3].image", "IMAGE_TRUNCATED"),
    ]


@pytest.mark.parametrize(
    ("shots", "limits", "reason"),
    [
        ((), Limits(), "NO_EXAMPLES"),
        ((3,), Limits(), "ONE_CLASS"),
        ((1, 1, 1), Limits(max_ways=2), "TOO_MANY_WAYS"),
        ((1, 3), Limits(max_shots=2), "TOO_MANY_SHOTS"),
        ((2, 2), Limits(max_examples=3), "TOO_MANY_EXAMPLES"),
        ((2, 2), Limits(max_total_bytes=600), "TOO_MANY_BYTES"),
        ((2, 2), Limits(max_pixels=100), "IMAGE_TOO_MANY_PIXELS"),
        ((2, 2), Limits(max_total_pixels=3 * 16**2), "TOO_MANY_PIXELS"),
    ],
)
def test_tasks_beyond_the_limits(
    checkpoint: Checkpoint, shots: tuple[int, ...], limits: Limits, reason: str
) -> None:
    seen: list[Progress] = []
    given = examples(shots) if shots else []
    with pytest.raises(InvalidInput) as caught:
        adapt(checkpoint, given, limits=limits, on_progress=seen.append)
    assert caught.value.reason == reason
    assert [p.stage for p in seen] == ["decode"]


def test_decoding_can_be_stopped_between_two_images(checkpoint: Checkpoint) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 4  # asked before each turn and stage, then for every image

    job = Job(checkpoint, examples((30, 30)), should_stop=stop)
    job.decode()
    assert isinstance(job.outcome, Cancelled)
    assert job.task is None
    assert len(asked) < 10


def test_large_images_are_checked(checkpoint: Checkpoint) -> None:
    random = np.random.default_rng(0)
    large = [random.integers(0, 256, (1100, 1000, 1), dtype=np.uint8) for _ in range(4)]
    support = [Example(str(i % 2), image) for i, image in enumerate(large)]
    assert adapt(checkpoint, support).report.onnx_difference < 1e-3


def test_adaptation_learns_the_task(checkpoint: Checkpoint) -> None:
    given = examples((5, 5, 5))
    options = OPTIONS.replace({"steps": 15, "tuning_steps": 15})
    made = adapt(checkpoint, given, options=options)
    assert np.mean([a == e.label for a, e in zip(predict(made, given), given, strict=True)]) > 0.9
