"""Verification of an exported model: `onnx.checker` accepts it, and ONNX Runtime equals torch."""

import os
from collections.abc import Sequence
from itertools import groupby

# ONNX Runtime 1.31 and later reports its use to its makers unless this is set before its import
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from torch import Tensor

from metanas.errors import ExportMismatch
from metanas.images.shifted_copies import looks
from metanas.images.support_set import Image
from metanas.util.work import Parts, whole

TOLERANCE = 1e-4
"""Largest difference of a logit between ONNX Runtime and torch, relative to the largest or 1."""
LARGEST = 100.0
"""Largest logit that widens the tolerance: exploded logits must not hide a difference."""
TOGETHER, TOGETHER_PIXELS = 32, 2**20
"""Most images of one run in the check, and most pixels of them: this bounds the memory."""


def session(onnx_bytes: bytes) -> ort.InferenceSession:
    """A session that costs little: one thread, no memory arena of its own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def run(model: ort.InferenceSession, images: Sequence[Image]) -> NDArray[np.float32]:
    """Logits (N, ways) of uint8 images (H, W, C) of any sizes, one after the other."""
    return np.concatenate([_logits(model, image[None]) for image in images])


def _run_together(
    model: ort.InferenceSession, images: Sequence[Image], most: int
) -> Parts[NDArray[np.float32]]:
    """The same, up to `most` small neighbours of one size together, which takes far less time."""
    rows = []
    for (height, width, _), grouped in groupby(images, key=lambda image: image.shape):
        same = list(grouped)
        count = min(most, max(1, TOGETHER_PIXELS // (height * width)))
        for start in range(0, len(same), count):
            yield
            rows.append(_logits(model, np.stack(same[start : start + count])))
    return np.concatenate(rows)


def _logits(model: ort.InferenceSession, images: Image) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = model.run(["logits"], {"images": images})[0]
    return logits


def check(
    model: onnx.ModelProto, images: Sequence[Image], expected: Tensor, shift_pixels: int = 0
) -> tuple[bytes, float]:
    """Serialise a model, having verified it on uint8 images (H, W, C) with their expected logits.

    With `shift_pixels`, that of the classifier, it is given fewer at a time.

    Returns the bytes and the largest difference of a logit.

    Raises:
        ExportMismatch: ONNX Runtime and torch differ by more than `TOLERANCE`.
    """
    return whole(check_in_parts(model, images, expected, shift_pixels))


def check_in_parts(
    model: onnx.ModelProto, images: Sequence[Image], expected: Tensor, shift_pixels: int = 0
) -> Parts[tuple[bytes, float]]:
    """Check as `check` does, in parts."""
    data = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    actual = yield from _run_together(session(data), images, TOGETHER // looks(shift_pixels))
    reference = expected.numpy(force=True)
    difference = float(np.abs(actual - reference).max())
    largest = float(np.abs(reference).max())
    if not difference <= TOLERANCE * min(max(1.0, largest), LARGEST):
        raise ExportMismatch(
            f"ONNX Runtime and torch differ by {difference:.2g} in a logit of the support set; "
            "please report this with the checkpoint, the seed and the support set"
        )
    return data, difference
