"""Conversion of an exported file into a variant, verified against the file before it leaves.

The module needs no torch, so the server converts stored models without a worker process. Metadata
`metanas.variant` of the new file states the variant and the measured agreement. The conformance
vector gets the outputs of the variant. Its image stays small: a file with a fixed input takes it
with the nearest pixels repeated (`fitted`).
"""

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from metanas.errors import InvalidInput
from metanas.export import rewrite
from metanas.export.agreement import (
    Agreement,
    Answers,
    answers,
    compare,
    require_close,
    require_equal,
    require_half,
)
from metanas.export.quantise import quantised
from metanas.export.runtime import Image, session
from metanas.nn.onnx_graph import OPSET
from metanas.spec.variant import ANY, STORED, Variant

VARIANT = "metanas.variant"
CONFORMANCE = "metanas.conformance"
NOISE_SEED = 0
KNOWN_TOLERANCE = 0.25
"""Largest difference of the output `known` of an int8 file between two processors."""
LEAST_CALIBRATION = 8
"""Fewest images on which an int8 file is calibrated and compared."""
LARGEST_INT8_OPSET = 20
"""Largest opset of an int8 file: in 21, ONNX Runtime makes the signed activations of many models
unsigned, and then refuses its own graph."""


def convert(onnx_bytes: bytes, variant: Variant, images: Sequence[Image] = ()) -> bytes:
    """Return a variant of an exported file.

    The same arguments give the same bytes.

    Args:
        onnx_bytes: the file, as an adaptation or this function made it.
        variant: the form of the new file.
        images: uint8 (H, W, C), on which both files are compared, and an int8 file is calibrated.
            By default, the conformance image of the file, altered copies of it, and noise; int8
            needs images of the task.

    Raises:
        InvalidInput: VARIANT_REFUSED, the answers would differ too much, or the file was converted
            before in a way that excludes this variant.
        ExportMismatch: EXPORT_MISMATCH, a defect of the conversion.
    """
    model = onnx.load_from_string(onnx_bytes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    stored = _Form.of(metadata)
    wanted = stored.changed(variant)
    if wanted.precision == "int8" != stored.precision:
        _require_calibration(images)
        model = quantised(model, images)
    vector = json.loads(metadata[CONFORMANCE])
    shown = _shown(vector)
    compared = [fitted(image, variant.size) for image in images or _samples(shown)]

    model = _rewritten(model, stored, wanted, variant.size)
    converted = _opened(_checked(model), wanted.opset)
    agreement = compare(answers(session(onnx_bytes), compared), answers(converted, compared))
    if wanted.precision == "int8" != stored.precision:
        require_close(agreement)
    elif wanted.precision == "fp16":
        require_half(agreement)
    else:
        require_equal(agreement)

    outputs = answers(converted, [fitted(shown, variant.size)])
    conformance = {**vector, **_described(outputs)}
    if wanted.precision == "int8":  # integer kernels of processors differ
        conformance["tolerance"] = max(vector["tolerance"], round(agreement.logit, 6))
        known = max(vector.get("known_tolerance", vector["tolerance"]), round(agreement.known, 6))
        conformance["known_tolerance"] = min(known, KNOWN_TOLERANCE)
    new = {CONFORMANCE: json.dumps(conformance), VARIANT: wanted.described(metadata, agreement)}
    del model.metadata_props[:]
    helper.set_model_props(model, dict(sorted({**metadata, **new}.items())))
    return _checked(model)


@dataclass(frozen=True)
class _Form:
    """The form of a file."""

    precision: str = "float32"
    input: str = ANY
    opset: int = OPSET

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "_Form":
        """Read the form of a file."""
        stated = json.loads(metadata.get(VARIANT, "{}"))
        return cls(**{key: stated[key] for key in ("precision", "input", "opset") if key in stated})

    def changed(self, variant: Variant) -> "_Form":
        """Return the form of a variant of the file.

        Raises:
            InvalidInput: VARIANT_REFUSED.
        """
        if self.input != ANY:
            message = f"the file has the input {self.input}; convert the file that it was made of"
            raise InvalidInput.single("input", "VARIANT_REFUSED", message)
        if variant.precision not in (STORED, self.precision) and self.precision != "float32":
            message = f"the file has the precision {self.precision}; adapt again with another one"
            raise InvalidInput.single("precision", "VARIANT_REFUSED", message)
        precision = self.precision if variant.precision == STORED else variant.precision
        if precision == "int8" and variant.opset > LARGEST_INT8_OPSET:
            message = (
                f"ONNX Runtime 1.31 cannot open files in 8 bits of opset {variant.opset}; choose "
                f"{LARGEST_INT8_OPSET} or lower, or fp16"
            )
            raise InvalidInput.single("opset", "VARIANT_REFUSED", message)
        return _Form(precision, variant.input, variant.opset)

    def described(self, metadata: Mapping[str, str], agreement: Agreement) -> str:
        """Return the entry of the metadata; a precision keeps the agreement of its conversion."""
        figures = {
            "images": agreement.images,
            "top1": round(agreement.top1, 6),
            "probability": round(agreement.probability, 6),
            "logit": round(agreement.logit, 6),
        }
        if self.precision == _Form.of(metadata).precision != "float32":
            before = json.loads(metadata[VARIANT])
            figures = {key: before[key] for key in figures}
        form = {"precision": self.precision, "input": self.input, "opset": self.opset}
        return json.dumps({**form, **figures})


def _rewritten(
    model: onnx.ModelProto, stored: _Form, wanted: _Form, size: tuple[int, int] | None
) -> onnx.ModelProto:
    """Return the graph of a variant.

    Raises:
        InvalidInput: VARIANT_REFUSED.
    """
    try:
        if wanted.opset != stored.opset:
            model = rewrite.with_opset(model, wanted.opset)
    except rewrite.UNCONVERTIBLE as error:
        message = f"an operator of the model has no form in opset {wanted.opset}: {error}"
        raise InvalidInput.single("opset", "VARIANT_REFUSED", message) from error
    if size is not None:
        model = rewrite.with_fixed_input(model, size)
    return rewrite.halved(model) if wanted.precision == "fp16" else model


def _require_calibration(images: Sequence[Image]) -> None:
    """Refuse to measure the ranges of an int8 file, and its agreement, on too few images."""
    if not images:
        message = "int8 is calibrated on the support set: adapt again with the option precision"
        raise InvalidInput.single("precision", "VARIANT_REFUSED", message)
    if len(images) < LEAST_CALIBRATION:
        message = (
            f"int8 is calibrated on {len(images)} images; at least {LEAST_CALIBRATION} are needed, "
            "and a view of each support image counts; add images, or choose fp16"
        )
        raise InvalidInput.single("precision", "VARIANT_REFUSED", message)


def _opened(data: bytes, opset: int) -> ort.InferenceSession:
    """Open a converted file.

    Raises:
        InvalidInput: VARIANT_REFUSED, ONNX Runtime cannot.
    """
    try:
        return session(data)
    except Exception as error:  # its errors have no common class
        cause = str(error).splitlines()[0][:200]
        message = (
            f"ONNX Runtime cannot open the model in opset {opset}: {cause}; choose a lower one"
        )
        raise InvalidInput.single("opset", "VARIANT_REFUSED", message) from error


def _checked(model: onnx.ModelProto) -> bytes:
    data = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    return data


def _shown(vector: Mapping[str, Any]) -> Image:
    """Return the image of a conformance vector."""
    return np.frombuffer(b64decode(vector["image"]), np.uint8).reshape(vector["shape"])


def _described(outputs: Answers) -> dict[str, object]:
    """Return the entries of a conformance vector for the outputs of a file."""
    logits = [round(value, 6) for value in outputs.logits[0].tolist()]
    return {"logits": logits, "known": round(float(outputs.known[0]), 6)}


def _samples(image: Image) -> list[Image]:
    """Return images to compare files on: an image, altered copies of it, and noise."""
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, image.shape, dtype=np.uint8)
    mirrored, turned = image[:, ::-1], image.swapaxes(0, 1)
    return [image, mirrored, turned, 255 - image, noise]


def fitted(image: Image, size: tuple[int, int] | None) -> Image:
    """Return the image with this height and width: the nearest pixels."""
    if size is None:
        return np.ascontiguousarray(image)
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, image.shape[:2], strict=True)
    )
    return np.ascontiguousarray(image[rows[:, None], columns])
