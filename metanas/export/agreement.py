"""Agreement of two files, or of a file and torch, on images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from metanas.errors import ExportMismatch, InvalidInput
from metanas.export.runtime import Image

TOLERANCE = 1e-4
"""Largest difference of a logit between two runtimes, relative to the largest logit or 1."""
HALF_TOLERANCE = 1e-2
"""The same between weights in half and in single precision."""
LEAST_SAME, MOST_NOISE = 0.98, 0.05
"""Bounds of the agreement of a file in 8 bits: share of images, and noise of the logits."""
KNOWN_EQUAL, KNOWN_HALF = 0.01, 0.1
"""Largest difference of the output `known` between two runtimes, and to weights in half precision.
It is a steep function of an image."""
LARGEST = 100.0
"""Largest logit that widens the tolerance, so that exploded logits hide no difference."""


class Answers(NamedTuple):
    """Outputs of a file for N images."""

    logits: NDArray[np.float32]
    """(N, ways)."""
    probabilities: NDArray[np.float32]
    """(N, ways)."""
    known: NDArray[np.float32]
    """(N,)."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Comparison of the answers of two files."""

    images: int
    """Number of images."""
    top1: float
    """Share of the images with the same most probable class."""
    probability: float
    """Largest difference of a probability."""
    logit: float
    """Largest difference of a logit."""
    noise: float
    """Mean square of the differences of logits over their variance, both within an image."""
    relative: float
    """`logit` over the largest logit, which counts as `LARGEST` at most and as 1 at least."""
    known: float
    """Largest difference of the output `known`."""
    known_same: float
    """Share of the images whose `known` stays below 0.5, or above."""


def answers(model: ort.InferenceSession, images: Sequence[Image]) -> Answers:
    """Run a file on images (H, W, C) of any sizes, one after the other."""
    names = [each.name for each in model.get_outputs()]
    rows = [
        dict(zip(names, model.run(names, {"images": image[None]}), strict=True)) for image in images
    ]
    nothing = np.zeros(1, np.float32)
    return Answers(
        *(np.concatenate([row.get(name, nothing) for row in rows]) for name in Answers._fields)
    )


def allowed(reference: NDArray[np.float32]) -> float:
    """Return the logit to which a tolerance is relative."""
    return min(max(1.0, float(np.abs(reference).max())), LARGEST)


def compare(reference: Answers, found: Answers) -> Agreement:
    """Compare the answers of a file with those of the file from which it was made."""
    same = reference.logits.argmax(1) == found.logits.argmax(1)
    logit = float(np.abs(reference.logits - found.logits).max())
    return Agreement(
        images=len(same),
        top1=float(same.mean()),
        probability=float(np.abs(reference.probabilities - found.probabilities).max()),
        logit=logit,
        noise=_variance(reference.logits - found.logits) / _variance(reference.logits),
        relative=logit / allowed(reference.logits),
        known=float(np.abs(reference.known - found.known).max()),
        known_same=float(((reference.known < 0.5) == (found.known < 0.5)).mean()),
    )


def _variance(logits: NDArray[np.float32]) -> float:
    """Return the variance of logits within an image: a number added to all changes no answer."""
    return float(logits.var(axis=1).mean())


def require_equal(agreement: Agreement) -> None:
    """Refuse a file that computes something else; equal arithmetic differs by roundings only.

    Raises:
        ExportMismatch: the logits differ by more than `TOLERANCE`, or `known` by more than
            `KNOWN_EQUAL`.
    """
    if not (agreement.relative <= TOLERANCE and agreement.known <= KNOWN_EQUAL):
        raise ExportMismatch(
            f"the converted file and the stored one differ by {agreement.logit:.2g} in a logit, "
            f"and by {agreement.known:.2g} in `known`; please report this with the model"
        )


def require_half(agreement: Agreement) -> None:
    """Refuse weights in half precision that change the answers.

    Raises:
        InvalidInput: VARIANT_REFUSED.
    """
    if not (agreement.relative <= HALF_TOLERANCE and agreement.known <= KNOWN_HALF):
        message = (
            f"with fp16 a logit differs by {agreement.logit:.2g}, which is "
            f"{agreement.relative:.1%} of the largest, and `known` by {agreement.known:.2g}; at "
            f"most {HALF_TOLERANCE:.0%} and {KNOWN_HALF:g} are allowed; keep float32"
        )
        raise InvalidInput.single("precision", "VARIANT_REFUSED", message)


def require_close(agreement: Agreement) -> None:
    """Refuse a file in 8 bits that answers differently.

    Raises:
        InvalidInput: VARIANT_REFUSED.
    """
    same = min(agreement.top1, agreement.known_same)
    if not (same >= LEAST_SAME and agreement.noise <= MOST_NOISE):
        message = (
            f"with int8 the class stays the same on {agreement.top1:.1%} of {agreement.images} "
            f"support images and views, `known` stays on its side of 0.5 on "
            f"{agreement.known_same:.1%}, and the noise of the logits is {agreement.noise:.1%}; "
            f"at least {LEAST_SAME:.0%} and at most {MOST_NOISE:.0%} are required; choose fp16"
        )
        raise InvalidInput.single("precision", "VARIANT_REFUSED", message)
