"""Verification of an exported model with `onnx.checker`, and of ONNX Runtime against torch."""

import os
from collections.abc import Sequence
from itertools import groupby

# ONNX Runtime 1.31 and later sends telemetry unless this is set before its import
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from torch import Tensor

from metanas.errors import ExportMismatch
from metanas.images.shifted_copies import looks
from metanas.images.support_set import Image
from metanas.util.work import Parts

TOLERANCE = 1e-4
"""Largest difference of a logit between ONNX Runtime and torch, relative to the largest or 1."""
LARGEST = 100.0
"""Largest logit that widens the tolerance, so that exploded logits hide no difference."""
MOST_CHECKED = 16
"""Most support images on which a model is checked, evenly spaced."""
TOGETHER, TOGETHER_PIXELS = 32, 2**20
"""Most images and most pixels of one run in the check, which bound its memory."""


def session(onnx_bytes: bytes) -> ort.InferenceSession:
    """Open a session with one thread and without a memory arena."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def run(model: ort.InferenceSession, images: Sequence[Image]) -> NDArray[np.float32]:
    """Return logits (N, ways) of uint8 images (H, W, C) of any sizes, one after the other."""
    return np.concatenate([_logits(model, image[None]) for image in images])


def _run_together(
    model: ort.InferenceSession, images: Sequence[Image], most: int
) -> Parts[NDArray[np.float32]]:
    """Do the same faster, with up to `most` neighbours of one size in a batch."""
    rows = []
    for (height, width, _), neighbours in groupby(images, key=lambda image: image.shape):
        group = list(neighbours)
        count = min(most, max(1, TOGETHER_PIXELS // (height * width)))
        for start in range(0, len(group), count):
            yield
            rows.append(_logits(model, np.stack(group[start : start + count])))
    return np.concatenate(rows)


def _logits(model: ort.InferenceSession, images: Image) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = model.run(["logits"], {"images": images})[0]
    return logits


def check(
    model: onnx.ModelProto, images: Sequence[Image], expected: Tensor, shift_pixels: int = 0
) -> Parts[tuple[bytes, float]]:
    """Serialise a model and check it on some uint8 images (H, W, C) with their expected logits.

    shift_pixels: that of the classifier; with copies, a batch has fewer images.

    Returns:
        the bytes, and the largest difference of a logit.

    Raises:
        ExportMismatch: ONNX Runtime and torch differ by more than `TOLERANCE`.
    """
    data = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data, full_check=True)
    rows = np.unique(np.linspace(0, len(images) - 1, MOST_CHECKED).round().astype(int))
    some = [images[row] for row in rows]
    actual = yield from _run_together(session(data), some, TOGETHER // looks(shift_pixels))
    reference = expected.numpy(force=True)[rows]
    difference = float(np.abs(actual - reference).max())
    largest = float(np.abs(reference).max())
    if not difference <= TOLERANCE * min(max(1.0, largest), LARGEST):
        raise ExportMismatch(
            f"ONNX Runtime and torch differ by {difference:.2g} in a logit of the support set; "
            "please report this with the checkpoint, the seed and the support set"
        )
    return data, difference
