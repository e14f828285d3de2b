"""Models of each shipped network in several forms, images, and the probabilities of each image.

A runtime gets a folder with `cases.json`: for each model its file, and for each image its raw
pixels, its shape and the probabilities that torch computes. Those of a converted model come from
ONNX Runtime, in which the conversion compared it with the original.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL.Image import Resampling

from metanas.adaptation.assemble import calibrated, classifier_of, joint_of, left_out_of
from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import adapt, make_all
from metanas.adaptation.universal import load_universal
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.estimates.calibration import temperature_of
from metanas.export.onnx_model import Classifier
from metanas.export.runtime import session
from metanas.export.variants import convert
from metanas.spec.examples import Example
from metanas.spec.variant import Variant
from metanas.util.work import whole
from metanas_data.folders import class_files
from tests.e2e.running import DIGITS, ROOT

Pixels = NDArray[np.uint8]
CHECKPOINTS = ROOT / "meta_checkpoints"
SIZES = ((40, 31), (17, 90), (160, 224))
"""Sizes of the images beside the one that the network sees: smaller, flat, larger."""
FORMS: dict[str, dict[str, Any]] = {
    "fixed size": {},
    "fp16": {"precision": "fp16"},
    "opset 13": {"opset": 13},
    "opset 21": {"opset": 21},
}
"""Forms of converted files, all networks in the first one."""
WAYS, SHOTS = 3, 2
NEW = 9
"""Number of the drawing that the support set does not have."""


@dataclass(frozen=True)
class Query:
    """An image of a case: a file of raw pixels."""

    file: str
    shape: tuple[int, ...]
    probabilities: list[float]


@dataclass(frozen=True)
class Case:
    """A model and its images.

    network: the checkpoint, or `universal`.
    form: the form of the file, which is a column of the table.
    """

    network: str
    form: str
    model: str
    images: list[Query]

    @property
    def name(self) -> str:
        """A name that no other case has."""
        return self.model.removesuffix(".onnx")


def draw(way: int, number: int, size: tuple[int, int], channels: int) -> Pixels:
    """Draw an image (H, W, C) of a class: its smooth pattern with some noise."""
    random = np.random.default_rng((way, number))
    pattern = np.random.default_rng(way).uniform(0, 255, (7, 7, channels))
    noisy = (pattern + random.normal(0, 40, pattern.shape)).clip(0, 255).astype(np.uint8)
    image = Picture.fromarray(noisy.squeeze()).resize(size[::-1], Resampling.BICUBIC)
    return np.asarray(image).reshape(*size, channels)


def write_cases(folder: Path) -> list[Case]:
    """Adapt each network, and write its model, its images and `cases.json`."""
    torch.set_num_threads(1)
    cases = [_case(folder, name) for name in ("omniglot", "drawn", "photos")]
    cases.append(_universal(folder))
    cases += [_converted(folder, case, "fixed size") for case in cases]
    cases += [_converted(folder, case, form) for case in cases[:2] for form in list(FORMS)[1:]]
    written = [{"name": case.name, **asdict(case)} for case in cases]
    (folder / "cases.json").write_text(json.dumps(written))
    return cases


def _converted(folder: Path, case: Case, form: str) -> Case:
    """Convert a model; a fixed size is that of its first image."""
    images = case.images
    height, width = images[0].shape[1:3]
    variant = {**FORMS[form]}
    if not variant:
        images = images[:1]
        variant = {"height": height, "width": width}
    converted = convert((folder / case.model).read_bytes(), Variant(**variant))
    model = f"{case.network}-{form.replace(' ', '-')}.onnx"
    (folder / model).write_bytes(converted)
    run = session(converted)
    rows = []
    for image in images:
        pixels = np.fromfile(folder / image.file, np.uint8).reshape(image.shape)
        rows.append(run.run(["probabilities"], {"images": pixels})[0][0].tolist())
    queries = [replace(each, probabilities=row) for each, row in zip(images, rows, strict=True)]
    return Case(case.network, form, model, queries)


def _case(folder: Path, name: str) -> Case:
    checkpoint = load_checkpoint(CHECKPOINTS / name)
    side, channels = checkpoint.card.input.size, checkpoint.card.input.channels
    support = [
        Example("abc"[way], draw(way, shot, (side, side), channels))
        for way in range(WAYS)
        for shot in range(SHOTS)
    ]
    model, network = _adapted(checkpoint, support)
    images = _images(side, channels)
    with torch.no_grad():
        logits = [network.logits(network.inputs(image))[0] for image in images]
    return _write(folder, name, model, images, [torch.softmax(row, 0).tolist() for row in logits])


def _adapted(checkpoint: Checkpoint, support: list[Example]) -> tuple[AdaptedModel, Classifier]:
    """Adapt; return the exported model, and the classifier in torch that it was exported from."""
    job = Job(checkpoint, support, seed=0)
    make_all([job])
    model = job.result()
    assert job.adaptation is not None
    assert job.task is not None
    joint = joint_of(job.adaptation, job.task)
    with torch.no_grad():
        classifier, _ = whole(classifier_of(joint))
        left = whole(left_out_of(joint, classifier.scale, 0))
    assert left is not None
    return model, calibrated(classifier, temperature_of(left))


def _universal(folder: Path) -> Case:
    """Adapt the default; its model joins two networks. The export compared it with torch."""
    files, _ = class_files(DIGITS / "support")
    support = [
        Example(label, path.read_bytes()) for label in "147" for path in sorted(files[label])
    ]
    model = adapt(load_universal(CHECKPOINTS), support, seed=0)
    assert len(model.report.architecture) > 1
    images, run = _images(100, 3), session(model.onnx)
    rows = [run.run(["probabilities"], {"images": image[None]})[0][0].tolist() for image in images]
    return _write(folder, "universal", model, images, rows)


def _images(side: int, channels: int) -> list[Pixels]:
    sizes = ((side, side), *SIZES)
    return [draw(way % WAYS, NEW, size, channels) for way, size in enumerate(sizes)]


def _write(
    folder: Path, name: str, model: AdaptedModel, images: list[Pixels], rows: list[list[float]]
) -> Case:
    (folder / f"{name}.onnx").write_bytes(model.onnx)
    queries = []
    for index, (image, row) in enumerate(zip(images, rows, strict=True)):
        file = f"{name}-{index}.bin"
        (folder / file).write_bytes(image.tobytes())
        queries.append(Query(file, (1, *image.shape), row))
    return Case(name, "any size", f"{name}.onnx", queries)
