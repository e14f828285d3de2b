"""Estimate the memory of a support set in a worker process, from the headers of its images.

Bytes a pixel were measured with Pillow 12 on files of 49 million pixels: an RGB PNG takes 8, an
RGBA PNG 12 and a transparent WebP 20 while it is decoded. A decoded image stays as uint8 until the
model has been checked. Preprocessing makes two copies as float32 of one image at a time. Its result
stays as float32, and is twice there while it is stacked; behind a trunk only small features stay.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metanas.errors import InvalidInput
from metanas.spec.card import CheckpointCard
from metanas.spec.examples import Example, Limits
from metanas_data.headers import peek

CHANNELS = 3  # of the largest input
DECODING = 20  # bytes for each pixel of the file that is being decoded
PREPARING = 28  # bytes for each decoded pixel of the image that is being preprocessed
STACKING = 8  # bytes for each number of a preprocessed image


@dataclass(frozen=True)
class Pixels:
    """Pixels of an image: in its file, and after decoding, which may reduce it."""

    stored: int
    decoded: int


def memory_of(
    examples: Sequence[Example], limits: Limits, budget: int, cards: Iterable[CheckpointCard]
) -> int:
    """Return the bytes that a support set takes in a worker process.

    budget: most bytes.
    cards: of the networks that the images are preprocessed for.

    Raises:
        InvalidInput: TOO_MANY_PIXELS, TOO_MUCH_MEMORY.
    """
    sizes = [pixels for each in examples if (pixels := _pixels(each, limits)) is not None]
    total = sum(each.decoded for each in sizes)
    if total > limits.max_total_pixels:
        text = f"the images have {total} pixels together; at most {limits.max_total_pixels} are"
        text = f"{text} allowed; send smaller images"
        raise InvalidInput.single("examples", "TOO_MANY_PIXELS", text)
    largest = max((DECODING * each.stored + PREPARING * each.decoded for each in sizes), default=0)
    encoded = sum(_bytes(each) for each in examples)
    stacked = len(examples) * sum(_stacked(card) for card in cards)
    memory = encoded + CHANNELS * total + largest + stacked
    if memory > budget:
        text = f"the images take {memory} bytes of memory while they are prepared; a worker has"
        text = f"{text} {budget}; send fewer or smaller images"
        raise InvalidInput.single("examples", "TOO_MUCH_MEMORY", text)
    return memory


def _stacked(card: CheckpointCard) -> int:
    """Return the bytes of a preprocessed image; a trunk is given a few of them at a time."""
    return 0 if card.space.trunk else STACKING * card.input.channels * card.input.size**2


def _bytes(example: Example) -> int:
    image = example.image
    return len(image) if isinstance(image, bytes) else image.nbytes


def _pixels(example: Example, limits: Limits) -> Pixels | None:
    """Return the pixels of an image; None if the worker refuses it by its header."""
    if not isinstance(example.image, bytes):
        pixels = example.image.shape[0] * example.image.shape[1]
        return Pixels(pixels, pixels)
    size = peek(example.image)
    return None if size is None or size[0] > limits.max_pixels else Pixels(*size)
