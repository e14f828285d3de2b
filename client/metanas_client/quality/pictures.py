"""Pictures of images with their answers: thumbnails for a page, and a contact sheet as PNG."""

import base64
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from metanas_client.onnx.images import load_image
from metanas_client.quality.answers import Answer
from metanas_client.support import content
from metanas_client.text import percent, printable

THUMBNAIL = 192
"""Longest side of a thumbnail in pixels, enough for 96 points on a dense screen."""
DRAWING = 64
"""Longest side up to which an image is shown with sharp pixels, in its own size."""
JPEG_QUALITY = 82
COLUMNS = 6
TILE, CAPTION, MARGIN = 176, 62, 12
FONT, LINE = 13, 17
PAPER, INK, QUIET, WRONG = "#ffffff", "#1d2126", "#5c6670", "#b3261e"


def thumbnail(answer: Answer) -> str:
    """Return a small version of an image as a data URL.

    Raises:
        ClientError: the image cannot be read any more.
    """
    small = _small(answer, THUMBNAIL)
    is_drawing = max(small.size) <= DRAWING
    buffer = BytesIO()
    if is_drawing:
        small.save(buffer, "PNG")
    else:
        small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    kind = "png" if is_drawing else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def contact_sheet(answers: Sequence[Answer], title: str) -> bytes:
    """Draw images with their true and predicted classes as a PNG.

    Raises:
        ClientError: an image cannot be read any more.
    """
    columns = max(3, min(COLUMNS, len(answers)))
    rows = -(-len(answers) // columns)
    top = MARGIN + 2 * LINE
    size = (
        MARGIN + columns * (TILE + MARGIN),
        top + rows * (TILE + CAPTION + MARGIN),
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (MARGIN, MARGIN), title, INK, size[0] - 2 * MARGIN)
    for index, answer in enumerate(answers):
        left = MARGIN + index % columns * (TILE + MARGIN)
        _draw_tile(sheet, draw, answer, (left, top + index // columns * (TILE + CAPTION + MARGIN)))
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, answer: Answer, place: tuple[int, int]
) -> None:
    left, top = place
    small = _small(answer, TILE)
    if max(small.size) <= DRAWING:
        factor = TILE // max(small.size)
        size = (small.width * factor, small.height * factor)
        small = small.resize(size, Image.Resampling.NEAREST)
    sheet.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline="#d5dade")
    lines = (
        (f"is {answer.label}", INK),
        (f"{percent(answer.confidence)} for {answer.predicted}", WRONG),
        (answer.source.rpartition("/")[2], QUIET),
    )
    for index, (text, colour) in enumerate(lines):
        _write(draw, (left, top + TILE + 4 + index * LINE), text, colour, TILE)


def _small(answer: Answer, side: int) -> Image.Image:
    """Return an image in colour, reduced to at most `side` pixels a side."""
    pixels = load_image(content(answer.image, answer.source), 3)
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return image


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str, width: int
) -> None:
    """Write one line; a long one is cut."""
    font = ImageFont.load_default(FONT)
    shown = whole = printable(text)
    while len(shown) > 1 and draw.textlength(shown, font=font) > width:
        shown = whole[: len(shown) - 2] + "…"
    draw.text(place, shown, fill=colour, font=font)
