"""Metadata of an exported file, and its conformance image."""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from metanas import __version__
from metanas.export.onnx_model import Classifier
from metanas.images.support_set import Image, Task
from metanas.spec.options import AdaptConfig

CONFORMANCE_TOLERANCE = 1e-3
"""Largest difference of a logit between another runtime and the conformance vector."""


@dataclass(frozen=True)
class Origin:
    """The checkpoint of a model, or the universal search space."""

    checkpoint: str
    digest: str
    architecture: Mapping[str, float] = field(default_factory=dict)
    """Branch of the universal search space -> its share."""


def metadata_of(
    origin: Origin,
    task: Task,
    classifier: Classifier,
    logits: Tensor,
    *,
    options: AdaptConfig,
    seed: int,
) -> dict[str, str]:
    """Return the properties of the file.

    logits: those of the classifier on the support set, (N, ways).
    """
    network = classifier.encoders[0].network
    space = network.space
    universal = {"metanas.architecture": json.dumps(origin.architecture)}
    return {
        "metanas.version": __version__,
        "metanas.labels": json.dumps(task.support.classes, ensure_ascii=False),
        "metanas.genotype": network.genotype.to_json(),
        "metanas.checkpoint": origin.checkpoint,
        "metanas.checkpoint_digest": origin.digest,
        "metanas.support_digest": task.digest,
        "metanas.seed": str(seed),
        "metanas.input": json.dumps({"channels": classifier.channels, "size": classifier.size}),
        "metanas.options": json.dumps(options.to_dict()),
        "metanas.cells": json.dumps({"cells": space.cells, "reductions": space.reductions}),
        **(universal if origin.architecture else {}),
        "metanas.conformance": _conformance(task.images[0], classifier, logits[0]),
    }


def _conformance(image: Image, classifier: Classifier, logits: Tensor) -> str:
    """Return one image and its logits as JSON, with which any runtime can be checked.

    logits: those of the image, (ways,). From a large image, every k-th pixel is taken, or a photo
    would make the file several times larger. The logits are then computed again.
    """
    step = _step(image, classifier.size)
    small = image[::step, ::step]
    inputs = classifier.inputs(small)
    if step > 1:
        logits = classifier.logits(inputs)[0]
    known = classifier.known
    score = {} if known is None else {"known": round(float(known(classifier.features(inputs))), 6)}
    vector = {
        "image": b64encode(small.tobytes()).decode(),
        "shape": small.shape,
        "logits": [round(value, 6) for value in logits.tolist()],
        **score,
        "tolerance": CONFORMANCE_TOLERANCE,
    }
    return json.dumps(vector)


def conformance_pixels(image: Image, size: int) -> int:
    """Count the pixels of the conformance image of a model with this input size."""
    step = _step(image, size)
    return len(image[::step]) * len(image[0, ::step])


def _step(image: Image, size: int) -> int:
    longest: int = max(image.shape)
    return max(1, longest // (2 * size))
