"""The options of an adaptation: a checkpoint has defaults, a request may override them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated

from metanas.errors import InvalidInput, Violation
from metanas.util.fields import Fraction, OneOf, Range, check, require
from metanas_data.suggest import nearest_or_all

Option = int | float | bool | str
MOST = 2_000_000_000
"""Largest limit on multiply-adds, weights and bytes."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The adaptation to a task. A request may override each field within its bounds."""

    steps: Annotated[int, Range(0, 500)] = 10
    """Task-optimizer steps on weights and architecture parameters (alphas) together."""
    tuning_steps: Annotated[int, Range(0, 500)] = 5
    """Steps on the weights alone after pruning."""
    weight_lr: Fraction = 1e-3
    """Step size on the weights."""
    alpha_lr: Fraction = 1e-2
    """Step size on the alphas; 0 keeps the meta-architecture."""
    temperature_start: Annotated[float, Range(0.001, 10)] = 1.0
    """Temperature of the relaxation at the first step."""
    temperature_end: Annotated[float, Range(0.001, 10)] = 0.02
    """Temperature at the last step, at most `temperature_start`."""
    batch_size: Annotated[int, Range(1, 1000)] = 100
    """Support images of a step; larger support sets go through in mini-batches."""
    gradient_clip: Annotated[float, Range(above=0, most=1_000_000)] = 10.0
    """Largest gradient norm."""
    patience: Annotated[int, Range(0, 500)] = 10
    """A stage ends early if the mean loss over this many steps equals that over as many steps
    before, with the same architecture; a search then cools for this many steps. 0 never ends
    early."""
    bilevel: bool = False
    """Alphas on one half of the support set and weights on the other, first order."""
    shift_pixels: Annotated[int, Range(0, 16)] = 0
    """The model averages the features of each image and of four copies, shifted diagonally by this
    many pixels of its input. A query takes five times the arithmetic, a step none. Less than a
    quarter of the input's side; 0 makes no copies. For checkpoints without a trunk."""
    head: Annotated[str, OneOf(("prototype", "ridge"))] = "prototype"
    """The linear layer over the features: "prototype" for class means, "ridge" for least squares
    with the penalty of the smallest leave-one-out error."""
    max_macs: Annotated[int, Range(0, MOST)] = 0
    """Most multiply-adds of the model for one image; 0 sets no limit."""
    max_parameters: Annotated[int, Range(0, MOST)] = 0
    """Most weights of the model, head included; 0 sets no limit."""
    max_bytes: Annotated[int, Range(0, MOST)] = 0
    """Most bytes of the ONNX file; 0 sets no limit."""
    max_milliseconds: Annotated[float, Range(0, 1_000_000)] = 0.0
    """Most milliseconds of the model in ONNX Runtime for one image on one thread, by the table of
    the checkpoints, which `metanas profile` measures; 0 sets no limit."""
    precision: Annotated[str, OneOf(("float32", "fp16", "int8"))] = "float32"
    """Numbers of the file: "fp16" for weights in half precision, "int8" for large layers in 8 bits,
    calibrated on the support set. A file that answers differently is refused."""

    def __post_init__(self) -> None:
        check(self)
        falls = self.temperature_end <= self.temperature_start
        require(("temperature_end", falls, "must be at most temperature_start"))

    def replace(self, overrides: Mapping[str, Option]) -> "AdaptConfig":
        """Return these options with some of them replaced.

        Raises:
            InvalidInput: an option that does not exist, or a value out of bounds.
        """
        known = [each.name for each in fields(self)]
        unknown = [
            Violation(
                f"options.{name}", "OPTION_UNKNOWN", f"no such option.{nearest_or_all(name, known)}"
            )
            for name in overrides
            if name not in known
        ]
        if unknown:
            raise InvalidInput(unknown)
        try:
            return replace(self, **dict(overrides))  # type: ignore[arg-type]
        except InvalidInput as error:
            raise error.within("options") from None

    def to_dict(self) -> dict[str, Option]:
        """Return the options as a plain dict."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AffineRange:
    """Ranges of the random affine views of an image; each is drawn uniformly, per image."""

    rotation: Annotated[float, Range(0, 180)] = 10.0
    """Largest rotation either way, in degrees."""
    shift: Fraction = 0.07
    """Largest shift either way, as a fraction of the image side."""
    scale: Annotated[float, Range(0, 0.9)] = 0.1
    """Largest relative change of size, drawn for each axis."""
    shear: Fraction = 0.1
    """Largest shear."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PhotoRange:
    """Ranges of the random views of photos in meta-training; each is drawn uniformly, per image."""

    crop: Annotated[float, Range(above=0, most=1)] = 1.0
    """Smallest side of a crop, as a fraction of the image's; 1 takes whole images."""
    flip: bool = False
    """Half of the images are mirrored."""
    brightness: Fraction = 0.0
    """Largest relative change of brightness."""
    contrast: Fraction = 0.0
    """Largest relative change of contrast."""
    saturation: Fraction = 0.0
    """Largest relative change of saturation."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def colour(self) -> tuple[float, float, float]:
        """Ranges of brightness, contrast and saturation."""
        return self.brightness, self.contrast, self.saturation
