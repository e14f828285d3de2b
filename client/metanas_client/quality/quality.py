"""Result of a test: metrics, answers, and the files made of them."""

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path

from metanas_client.errors import InvalidInput, Violation
from metanas_client.model import write_atomically
from metanas_client.onnx.model_file import ModelFile
from metanas_client.quality.answers import Answer, OnImage, answer_all
from metanas_client.quality.page import fragment, page
from metanas_client.quality.pictures import contact_sheet
from metanas_client.support import Support, read_support
from metanas_data.metrics import Metrics, measure

MISTAKES = 100
"""Default number of wrong images in a contact sheet, on a page and in a list."""
UNSURE = 12
"""Number of correct images on a page: those of the lowest confidence."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of a model on held-out images. Images that cannot be read count nowhere."""

    model: str
    """Name of the model, or of its file."""
    metrics: Metrics
    answers: tuple[Answer, ...]
    """In the order of the images."""
    failed: tuple[Violation, ...]
    """Images that cannot be read."""

    @property
    def wrong(self) -> list[Answer]:
        """The wrong answers, the most confident first: a mistake, or a wrong label."""
        wrong = [one for one in self.answers if not one.correct]
        return sorted(wrong, key=lambda one: -one.confidence)

    def save_html(self, path: str | os.PathLike[str], *, mistakes: int = MISTAKES) -> Path:
        """Write one HTML page with all figures and thumbnails; it loads nothing from elsewhere.

        Args:
            path: the file; an existing one is replaced.
            mistakes: most wrong images to show.

        Raises:
            NotWritable: it cannot be written there.
            ClientError: an image to show cannot be read any more.
        """
        right = [one for one in self.answers if one.correct]
        unsure = sorted(right, key=lambda one: one.confidence)[:UNSURE]
        text = page(self.model, self.metrics, self.wrong[:mistakes], unsure, self.failed)
        return _write(path, text.encode())

    def save_sheet(self, path: str | os.PathLike[str], *, mistakes: int = MISTAKES) -> Path:
        """Write a contact sheet of the wrong images as PNG; see `save_html`."""
        shown, wrong = self.wrong[:mistakes], len(self.wrong)
        count = f"{wrong}" if len(shown) == wrong else f"{len(shown)} of {wrong}"
        title = f"{count} wrong images of {len(self.answers)}: true class, then prediction in red"
        return _write(path, contact_sheet(shown, title))

    def _repr_html_(self) -> str:
        """Show the figures and the confusion matrix in a notebook."""
        return f"<h3>{escape(self.model)}</h3>{fragment(self.metrics)}"


def measure_quality(
    model: ModelFile, name: str, images: Support, on_image: OnImage = lambda done, total: None
) -> Quality:
    """Test a model on labelled images, one at a time.

    Args:
        model: the model.
        name: its name in the result.
        images: as a support set; class -> images may lack classes of the model.
        on_image: called after each image.

    Raises:
        InvalidInput: FOLDER_MISSING, FOLDER_LAYOUT, CLASS_UNKNOWN, NO_IMAGES, or all images are
            unusable.
    """
    held_out = read_support(images, field="images")
    answers, failed = answer_all(model, held_out, on_image)
    if not answers:
        if failed:
            raise InvalidInput(failed)
        raise InvalidInput.single("images", "NO_IMAGES", "there is no image in the class folders")
    places = {label: index for index, label in enumerate(model.labels)}
    metrics = measure(
        model.labels,
        [places[one.label] for one in answers],
        [places[one.predicted] for one in answers],
        [one.confidence for one in answers],
    )
    return Quality(model=name, metrics=metrics, answers=tuple(answers), failed=tuple(failed))


def _write(path: str | os.PathLike[str], data: bytes) -> Path:
    target = Path(path)
    write_atomically(target, data)
    return target
