"""Answers of a model for labelled images, one image at a time."""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metanas_client.errors import ClientError, InvalidInput, Violation
from metanas_client.onnx.images import load_image
from metanas_client.onnx.model_file import ModelFile
from metanas_client.support import RawImage, SupportExample, SupportSet, content
from metanas_data.suggest import nearest_or_all

OnImage = Callable[[int, int], None]
"""Called with the number of images that are done, and that of all images."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answer of the model for one image."""

    source: str
    """The file, or the index of an image that comes from no file."""
    label: str
    """True class, as the model names it."""
    predicted: str
    """Most probable class."""
    confidence: float
    """Probability of that class."""
    image: bytes | RawImage | Path

    @property
    def correct(self) -> bool:
        """True if the prediction is the true class."""
        return self.predicted == self.label


def true_classes(labels: Sequence[str], images: SupportSet) -> dict[bytes, str]:
    """Return the class of the model for each class of the images.

    Names that differ in their Unicode form only are equal: file systems change the form.

    Raises:
        InvalidInput: CLASS_UNKNOWN for each class that the model lacks.
    """
    known = {_normal(label): label for label in labels}
    names = {raw: os.fsdecode(raw) for raw in images.classes}
    unknown = [name for name in names.values() if _normal(name) not in known]
    if unknown:
        raise InvalidInput(
            [
                Violation(
                    "images",
                    "CLASS_UNKNOWN",
                    f"the model has no class {name!r}.{nearest_or_all(name, labels)} Rename or "
                    "remove the folder.",
                )
                for name in unknown
            ]
        )
    return {raw: known[_normal(name)] for raw, name in names.items()}


def answer_all(
    model: ModelFile, images: SupportSet, on_image: OnImage
) -> tuple[list[Answer], list[Violation]]:
    """Classify labelled images; return the answers, and the images that cannot be read.

    One image is in memory at a time.

    Raises:
        InvalidInput: CLASS_UNKNOWN.
    """
    labels = true_classes(model.labels, images)
    answers: list[Answer] = []
    failed: list[Violation] = []
    for index, example in enumerate(images.examples):
        field = f"images[{index}]"
        try:
            answers.append(_answer(model, example, labels[example.label], field))
        except ClientError as error:
            source = example.source or field
            violations = error.violations if isinstance(error, InvalidInput) else ()
            message = violations[0].message if violations else error.message
            failed.append(Violation("images", error.reason, message, source))
        on_image(index + 1, len(images.examples))
    return answers, failed


def _answer(model: ModelFile, example: SupportExample, label: str, field: str) -> Answer:
    pixels = load_image(content(example.image, field), model.channels)
    [probabilities] = model.run(pixels[None]).probabilities
    best = int(probabilities.argmax())
    return Answer(
        source=example.source or field,
        label=label,
        predicted=model.labels[best],
        confidence=float(probabilities[best]),
        image=example.image,
    )


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
