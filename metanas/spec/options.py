"""The options of an adaptation: a checkpoint carries defaults, a request may override them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace

from metanas.errors import InvalidInput, Violation

Option = int | float | bool


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How a task is adapted to. Every field may be overridden per request within its bounds."""

    steps: int = 10
    """Task-optimizer steps on weights and alphas together, 0 to 500."""
    tuning_steps: int = 5
    """Steps on the weights alone after pruning, 0 to 500."""
    weight_lr: float = 1e-3
    """Step size on the weights, 0 to 1."""
    alpha_lr: float = 1e-2
    """Step size on the alphas, 0 to 1; 0 keeps the meta-architecture."""
    temperature_start: float = 1.0
    """Temperature of the relaxation at the first step, 0.001 to 10."""
    temperature_end: float = 0.02
    """Temperature at the last step, 0.001 to `temperature_start`."""
    batch_size: int = 100
    """Support images of a step, 1 to 1000; larger support sets go through in mini-batches."""
    gradient_clip: float = 10.0
    """Largest gradient norm, above 0 and at most 1e6."""
    patience: int = 10
    """A stage ends early once the mean loss of so many steps is that of as many before and the
    architecture stayed the same, a search after as many more in which it cools, 0 to 500; 0 takes
    every step."""
    bilevel: bool = False
    """Alphas on one half of the support set and weights on the other, first order."""
    shift_pixels: int = 0
    """The model also looks at four copies of each image, shifted diagonally by so many pixels of
    its input, and averages the features of all five: five times the arithmetic of a query, nothing
    more in the steps. 0 to 16 and less than a quarter of the input's side; 0 looks once. For
    checkpoints without a trunk."""

    def __post_init__(self) -> None:
        bad = [
            Violation(f"options.{name}", "OPTION_OUT_OF_RANGE", f"must be {what}")
            for name, (ok, what) in self._checks().items()
            if not ok
        ]
        if bad:
            raise InvalidInput(bad)

    def _checks(self) -> dict[str, tuple[bool, str]]:
        start = self.temperature_start
        return {
            "steps": (_whole(self.steps, 0, 500), "a whole number from 0 to 500"),
            "tuning_steps": (_whole(self.tuning_steps, 0, 500), "a whole number from 0 to 500"),
            "weight_lr": (_real(self.weight_lr) and 0 <= self.weight_lr <= 1, "from 0 to 1"),
            "alpha_lr": (_real(self.alpha_lr) and 0 <= self.alpha_lr <= 1, "from 0 to 1"),
            "temperature_start": (_real(start) and 1e-3 <= start <= 10, "from 0.001 to 10"),
            "temperature_end": (
                _real(self.temperature_end)
                and 1e-3 <= self.temperature_end <= 10
                and not (_real(start) and self.temperature_end > start),
                "from 0.001 to 10 and at most temperature_start",
            ),
            "batch_size": (_whole(self.batch_size, 1, 1000), "a whole number from 1 to 1000"),
            "gradient_clip": (
                _real(self.gradient_clip) and 0 < self.gradient_clip <= 1e6,
                "above 0 and at most 1e6",
            ),
            "patience": (_whole(self.patience, 0, 500), "a whole number from 0 to 500"),
            "bilevel": (isinstance(self.bilevel, bool), "true or false"),
            "shift_pixels": (_whole(self.shift_pixels, 0, 16), "a whole number from 0 to 16"),
        }

    def replace(self, overrides: Mapping[str, Option]) -> "AdaptConfig":
        """These options with some replaced.

        Raises:
            InvalidInput: an option that does not exist, or a value out of bounds.
        """
        known = {f.name for f in fields(self)}
        unknown = [
            Violation(
                f"options.{name}",
                "OPTION_UNKNOWN",
                f"no such option; known: {', '.join(sorted(known))}",
            )
            for name in overrides
            if name not in known
        ]
        if unknown:
            raise InvalidInput(unknown)
        return replace(self, **dict(overrides))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Option]:
        """The options as a plain dict."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class AffineRange:
    """Ranges of the random affine views of an image; each is drawn uniformly, per image."""

    rotation: float = 10.0
    """Largest rotation either way, in degrees."""
    shift: float = 0.07
    """Largest shift either way, as a fraction of the image side."""
    scale: float = 0.1
    """Largest relative change of size, drawn for each axis."""
    shear: float = 0.1
    """Largest shear."""

    def __post_init__(self) -> None:
        most = {"rotation": 180.0, "shift": 1.0, "scale": 0.9, "shear": 1.0}
        bad = [
            Violation(f"augment.{name}", "OPTION_OUT_OF_RANGE", f"must be 0 to {high:g}")
            for name, high in most.items()
            if not 0 <= getattr(self, name) <= high
        ]
        if bad:
            raise InvalidInput(bad)


@dataclass(frozen=True, kw_only=True)
class PhotoRange:
    """Ranges of the random views of photos in meta-training; each is drawn uniformly, per image."""

    crop: float = 1.0
    """Smallest side of a crop, as a fraction of the image's; 1 takes whole images."""
    flip: bool = False
    """Whether half of the images are mirrored."""
    brightness: float = 0.0
    """Largest relative change of brightness."""
    contrast: float = 0.0
    """Largest relative change of contrast."""
    saturation: float = 0.0
    """Largest relative change of saturation."""

    def __post_init__(self) -> None:
        bad = [] if 0 < self.crop <= 1 else [("crop", "must be above 0 and at most 1")]
        names = ("brightness", "contrast", "saturation")
        bad += [(n, "must be 0 to 1") for n in names if not 0 <= getattr(self, n) <= 1]
        if bad:
            raise InvalidInput(
                Violation(f"photo.{name}", "OPTION_OUT_OF_RANGE", what) for name, what in bad
            )

    @property
    def colour(self) -> tuple[float, float, float]:
        """Ranges of brightness, contrast and saturation."""
        return self.brightness, self.contrast, self.saturation


def _whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _real(value: object) -> bool:
    return type(value) in (int, float)
