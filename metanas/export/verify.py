"""Verification of an exported model with `onnx.checker`, and of ONNX Runtime against torch."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from torch import Tensor

from metanas.errors import ExportMismatch
from metanas.export.agreement import TOLERANCE, allowed
from metanas.export.runtime import logits_of, session
from metanas.images.shifted_copies import looks
from metanas.images.support_set import Image
from metanas.util.work import Parts

MOST_CHECKED = 16
"""Most support images on which a model is checked, evenly spaced."""
TOGETHER, TOGETHER_PIXELS = 32, 2**20
"""Most images and most pixels of one run in the check, which bound its memory."""


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
            rows.append(logits_of(model, np.stack(group[start : start + count])))
    return np.concatenate(rows)


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
    if not difference <= TOLERANCE * allowed(reference):
        raise ExportMismatch(
            f"ONNX Runtime and torch differ by {difference:.2g} in a logit of the support set; "
            "please report this with the checkpoint, the seed and the support set"
        )
    return data, difference
