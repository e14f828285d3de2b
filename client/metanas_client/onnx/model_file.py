"""ONNX file made by MetaNAS: metadata, predictions and self-check.

Needs the extra "onnx". The file is read through ONNX Runtime alone.
"""

import base64
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metanas_client.errors import ModelFileError
from metanas_client.extras import warn_of_two_runtimes
from metanas_client.onnx.cells import Cell, read_cells
from metanas_client.onnx.form import (
    INPUT,
    OUTPUTS,
    Form,
    Variant,
    read_form,
    read_variant,
    repeated,
    resized,
)
from metanas_client.onnx.images import batches
from metanas_client.onnx.runtime import open_session, runtime_error
from metanas_client.support import Image
from metanas_data.suggest import did_you_mean_file

warn_of_two_runtimes()

PREFIX = "metanas."
NOT_PROVENANCE = {"labels", "genotype", "conformance", "input", "cells"}
MAX_BATCH_PIXELS = 4_000_000
"""Most pixels that run together: ONNX Runtime needs some 35 bytes for each. A larger image runs
alone."""
MOST_BYTES = 2**29
"""Most bytes of a file."""
KNOWN_TOLERANCE = 0.25
"""Largest tolerance of the output `known`, which goes from 0 to 1, whatever a file states."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Prediction for one image."""

    label: str
    """The most probable class."""
    confidence: float
    """Its probability."""
    known: float
    """0 to 1: below 0.5, the image is probably of none of the classes."""
    probabilities: Mapping[str, float]
    """For every class, in the order of the model's outputs."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of a model file."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Conformance:
    """Image, and the logits that the network gave for it at export."""

    image: NDArray[np.uint8]
    """(H, W, C)."""
    logits: NDArray[np.float32]
    """(ways,)."""
    known: float
    """0 to 1."""
    tolerance: float
    """Largest difference of a logit."""
    known_tolerance: float
    """Largest difference of `known`."""


class Answers(NamedTuple):
    """Outputs of the file for some images."""

    logits: NDArray[np.float32]
    """(N, ways)."""
    probabilities: NDArray[np.float32]
    """(N, ways)."""
    known: NDArray[np.float32]
    """(N,)."""


class Tensor(NamedTuple):
    """Input or output of the file."""

    name: str
    kind: str
    """Its type in ONNX Runtime, such as "tensor(uint8)"."""
    shape: tuple[int | str | None, ...]
    """A dimension that is not fixed has a name or None."""


class ModelFile:
    """Model in ONNX Runtime with one thread. A prediction depends on its own image alone.

    Args:
        data: the bytes of the file.
        source: name of the file in errors.

    Raises:
        ModelFileError: MODEL_UNREADABLE (not an ONNX file, or a version that this ONNX Runtime
            cannot read), MODEL_FOREIGN (not made by MetaNAS), METADATA_MALFORMED.
    """

    def __init__(self, data: bytes, *, source: str = "the model") -> None:
        self._source = source
        self.size = len(data)
        self._session = open_session(data, source)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.metadata: Mapping[str, str] = {
            key.removeprefix(PREFIX): value
            for key, value in metadata.items()
            if key.startswith(PREFIX)
        }
        """Metadata of the file, without the prefix "metanas."."""
        self.labels: tuple[str, ...] = self._labels()
        """The classes in the order of the outputs."""
        try:
            self.form: Form = read_form(self._session.get_inputs(), self._session.get_outputs())
        except ValueError as error:
            raise ModelFileError("MODEL_FOREIGN", f"{source}: {error}") from error
        """The images that it takes."""
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))

    @classmethod
    def load(cls, path: str | Path) -> "ModelFile":
        """Read a file.

        Raises:
            ModelFileError: as above, or MODEL_MISSING.
        """
        return cls(read_model(path), source=str(path))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The normal and the reduction cell."""
        return read_cells(self.text("genotype"))

    @property
    def provenance(self) -> dict[str, str]:
        """Checkpoint, digests, seed, options and versions, as text."""
        return {key: self.metadata[key] for key in sorted(self.metadata.keys() - NOT_PROVENANCE)}

    @cached_property
    def conformance(self) -> Conformance:
        """Conformance image and logits in the file."""
        raw = self._json("conformance")
        try:
            pixels = np.frombuffer(base64.b64decode(raw["image"]), dtype=np.uint8)
            height, width, _ = raw["shape"]
            return Conformance(
                image=pixels.reshape(height, width, self.channels),
                logits=np.asarray(raw["logits"], dtype=np.float32).reshape(-1),
                known=float(raw["known"]),
                tolerance=float(raw["tolerance"]),
                known_tolerance=min(
                    float(raw.get("known_tolerance", raw["tolerance"])), KNOWN_TOLERANCE
                ),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise self._malformed("conformance", error) from error

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.form.channels

    @cached_property
    def variant(self) -> Variant:
        """Form of the file, and its agreement with the file that it was converted from."""
        if "variant" not in self.metadata:
            return Variant()
        try:
            return read_variant(self._json("variant"))
        except (TypeError, ValueError) as error:
            raise self._malformed("variant", error) from error

    def run(self, images: NDArray[np.uint8]) -> Answers:
        """Classify uint8 (N, H, W, C); a fixed input takes them resized, one after the other."""
        if self.form.size is None:
            return self._outputs(images)
        rows = [self._outputs(resized(each, self.form.size)[None]) for each in images]
        return Answers(*map(np.concatenate, zip(*rows, strict=True))) if rows else self._none

    def _outputs(self, images: NDArray[np.uint8]) -> Answers:
        try:
            found = self._session.run(OUTPUTS, {INPUT: np.ascontiguousarray(images)})
        except Exception as error:  # its errors have no common class
            raise runtime_error(self._source, "cannot be run by", error) from error
        rows, answers = len(images), Answers(*found)
        ways = answers.logits.shape[-1:]
        if [each.shape for each in answers] != [(rows, *ways), (rows, *ways), (rows,)]:
            raise ModelFileError("MODEL_FOREIGN", f"{self._source} has outputs of other shapes")
        return answers

    def logits(self, images: Iterable[Image]) -> NDArray[np.float32]:
        """Return the logits (N, ways) of images of any form and size. Equal sizes share batches."""
        return self._run_all(images).logits

    def predict(self, images: Iterable[Image]) -> list[Prediction]:
        """Classify images; see `Model.predict`."""
        answers = self._run_all(images)
        rows = zip(answers.probabilities, map(float, answers.known), strict=True)
        return [self._prediction(row, known) for row, known in rows]

    def check(self) -> list[Check]:
        """Run the file's self-check in this ONNX Runtime."""
        vector = self.conformance
        image = repeated(vector.image, self.form.size)
        logits, probabilities, known = self.run(np.stack([image, image]))
        alone = self.run(image[None]).logits
        ways = len(self.labels)
        same_ways = logits.shape[1] == ways == len(vector.logits)
        difference = _largest(logits[0] - vector.logits) if same_ways else float("inf")
        batch = _largest(logits[0] - alone[0])
        total = _largest(probabilities.sum(axis=1) - 1)
        return [
            Check(
                name="labels",
                passed=same_ways and len(set(self.labels)) == ways,
                detail=f"{ways} labels for {logits.shape[1]} outputs",
            ),
            Check(
                name="conformance",
                passed=difference <= vector.tolerance,
                detail=f"logits differ by {difference:.2g}, at most {vector.tolerance:g} allowed",
            ),
            Check(
                name="known",
                passed=_largest(known - vector.known) <= vector.known_tolerance,
                detail=f"differs by {_largest(known - vector.known):.2g}, "
                f"at most {vector.known_tolerance:g} allowed",
            ),
            Check(
                name="variant",
                passed=self.variant.input == self.form.text,
                detail=str(self.variant),
            ),
            Check(
                name="independence",
                passed=batch <= 1e-5,
                detail=f"alone and in a batch the logits differ by {batch:.2g}",
            ),
            Check(
                name="probabilities",
                passed=total <= 1e-5,
                detail=f"the sums of the probabilities differ from 1 by {total:.2g}",
            ),
            Check(
                name="genotype",
                passed=all(cell.nodes for cell in self.cells),
                detail=", ".join(f"{len(c.nodes)} nodes in the {c.kind} cell" for c in self.cells),
            ),
        ]

    def _run_all(self, images: Iterable[Image]) -> Answers:
        """Run batch after batch, so that the images of one batch are in memory at a time."""
        ways = self._session.get_outputs()[0].shape[1]
        if ways != len(self.labels):
            raise self._malformed("labels", f"{len(self.labels)} labels for {ways} outputs")
        parts = map(self._run_batch, batches(images, self.channels, MAX_BATCH_PIXELS))
        return Answers(*map(np.concatenate, zip(self._none, *parts, strict=True)))

    @property
    def _none(self) -> Answers:
        empty = np.empty((0, len(self.labels)), dtype=np.float32)
        return Answers(empty, empty, empty[:, 0])

    def _run_batch(self, images: Sequence[NDArray[np.uint8]]) -> Answers:
        """Run images of several sizes, those of equal size together."""
        logits = np.empty((len(images), len(self.labels)), dtype=np.float32)
        answers = Answers(logits, np.empty_like(logits), np.empty_like(logits[:, 0]))
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_shape[image.shape].append(index)
        for rows in by_shape.values():
            stacked = np.stack([images[row] for row in rows])
            for whole, part in zip(answers, self.run(stacked), strict=True):
                whole[rows] = part
        return answers

    def _prediction(self, row: NDArray[np.float32], known: float) -> Prediction:
        best = int(row.argmax())
        return Prediction(
            label=self.labels[best],
            confidence=float(row[best]),
            known=known,
            probabilities=dict(zip(self.labels, map(float, row), strict=True)),
        )

    def _labels(self) -> tuple[str, ...]:
        labels = self._json("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise self._malformed("labels", "must be a list of names")
        return tuple(labels)

    def text(self, key: str) -> str:
        """Return an entry of the metadata.

        Raises:
            ModelFileError: MODEL_FOREIGN, the file lacks it.
        """
        if key not in self.metadata:
            raise ModelFileError(
                "MODEL_FOREIGN",
                f"{self._source} was not made by MetaNAS: its metadata lacks {PREFIX}{key}",
            )
        return self.metadata[key]

    def _json(self, key: str) -> Any:
        try:
            return json.loads(self.text(key))
        except (ValueError, RecursionError) as error:
            raise self._malformed(key, error) from error

    def _malformed(self, key: str, error: Exception | str) -> ModelFileError:
        return ModelFileError(
            "METADATA_MALFORMED", f"{self._source}: {PREFIX}{key} in its metadata: {error}"
        )


def read_model(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file.

    Raises:
        ModelFileError: MODEL_MISSING, or MODEL_FOREIGN: it is too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        why = error.strerror or str(error)
        hint = did_you_mean_file(Path(path))
        raise ModelFileError("MODEL_MISSING", f"cannot read {path}: {why}.{hint}") from error
    if len(data) > MOST_BYTES:
        message = f"{path} has more than {MOST_BYTES} bytes; no model of MetaNAS is so large"
        raise ModelFileError("MODEL_FOREIGN", message)
    return data


def _tensor(node: Any) -> Tensor:
    return Tensor(node.name, node.type, tuple(node.shape))


def _largest(values: NDArray[np.float32]) -> float:
    # np.max keeps NaN, which then fails every comparison
    return float(np.abs(values).max())
