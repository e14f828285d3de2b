"""Variants of an exported file: its precision, its input and its opset."""

from dataclasses import dataclass
from typing import Annotated

from metanas.util.fields import OneOf, Range, check, require

STORED = "stored"
"""Precision of the file that is converted."""
LARGEST_SIDE = 2048
"""Largest height and width of a fixed input: four million pixels, as of a decoded photo."""
ANY = "any"
"""Input that takes images of any size, and any number of them."""

Side = Annotated[int, Range(0, LARGEST_SIDE)]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The form into which an exported file is converted."""

    precision: Annotated[str, OneOf((STORED, "fp16", "int8"))] = STORED
    """Numbers of the file: "stored" keeps them, "fp16" stores weights in half precision, which a
    runtime widens when it loads the file, "int8" has large layers in 8 bits."""
    height: Side = 0
    """Height of the images of a graph without dynamic shapes; 0 takes any size."""
    width: Side = 0
    """Width of these images; 0 takes any size."""
    opset: Annotated[int, Range(13, 21)] = 17
    """Version of the standard operators."""

    def __post_init__(self) -> None:
        check(self)
        both = (self.height == 0) == (self.width == 0)
        require(("height", both, "must be given together with width"))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images; None takes any size."""
        return (self.height, self.width) if self.height else None

    @property
    def input(self) -> str:
        """The input as text: "any" or "fixed:HxW"."""
        return f"fixed:{self.height}x{self.width}" if self.height else ANY
