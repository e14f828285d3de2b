"""The card of a checkpoint: identity, input, options and scores, as JSON; needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from metanas.errors import CheckpointError, InvalidInput
from metanas.spec.options import AdaptConfig, AffineRange, PhotoRange
from metanas.spec.search_space import SearchSpace
from metanas.util import dataclass_json as schema
from metanas.util.fields import Natural, OneOf, Positive, Range, check, require

FORMAT_VERSION = 1
CARD_FILE = "checkpoint.json"
PAGE_FILE = "README.md"
FRONT_MATTER = """---
library_name: metanas
pipeline_tag: image-classification
tags: [few-shot, meta-learning, neural-architecture-search]
---
"""
"""The fields of a page that model hubs read, in YAML."""
WEIGHTS_FILES = "weights-*.safetensors"
"""Names of files with weights. A checkpoint is the file that its card names."""
TaskOptimizer = Annotated[str, OneOf(("adam", "sgd"))]
DESCRIPTIVE = ("description", "scores", "provenance")
"""Fields of a card that do not change the result of an adaptation."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The preprocessing of images to the network's input; the exported graph does exactly this."""

    channels: Annotated[int, OneOf((1, 3))]
    """1 for grey images, 3 for RGB."""
    size: Annotated[int, Range(8, 512)]
    """Side in pixels to which images are resized (bilinear, antialiased, aspect not kept)."""
    mean: tuple[float, ...]
    """Per channel, subtracted from pixels scaled to 0..1."""
    std: tuple[Positive, ...]
    """Per channel, divided by afterwards."""
    dark_background: bool = False
    """The network expects light strokes on a dark ground. A support set whose borders are mostly
    light is inverted, and so are the queries of its model."""

    def __post_init__(self) -> None:
        check(self)


def check_input(spec: InputSpec, space: SearchSpace) -> None:
    """Check that preprocessed images fit the stem.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    reduced = max((block.reduced for block in space.trunk_blocks), default=1)
    require(
        (
            "input.size",
            spec.size % reduced == 0,
            f"must be a multiple of {reduced} with this trunk",
        ),
        (
            "input.size",
            min(space.sides(spec.size)) >= space.grid,
            "is so small that the last cell's maps have no quarters; use space.grid = 1",
        ),
        (
            "input.size",
            all(
                spec.size >= grid * space.trunk_blocks[block].reduced
                for block, grid in space.trunk_pools
            ),
            "is so small that a block of the trunk has no quarters; use a grid of 1 in space.pools",
        ),
        (
            "input.channels",
            spec.channels == space.input_channels,
            "must equal space.input_channels",
        ),
        ("input.mean", len(spec.mean) == spec.channels, "must have one value a channel"),
        ("input.std", len(spec.std) == spec.channels, "must have one value a channel"),
    )


def check_options(
    options: AdaptConfig, spec: InputSpec, space: SearchSpace, section: str = "options"
) -> None:
    """Check that the options suit networks of this input and search space.

    section: name of the options in errors.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    most = (spec.size - 1) // 4
    limit = f"must be less than a quarter of the input's side of {spec.size} pixels, at most {most}"
    require(
        (
            f"{section}.shift_pixels",
            not space.trunk or options.shift_pixels == 0,
            "must be 0 with a pretrained trunk, which would have to run five times",
        ),
        (f"{section}.shift_pixels", options.shift_pixels <= most, limit),
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointCard:
    """All facts about a checkpoint but its tensors."""

    name: str
    description: str
    input: InputSpec
    space: SearchSpace
    defaults: AdaptConfig
    augment: AffineRange
    relaxation: str = "darts"
    """Name of the relaxation of meta-training and adaptation."""
    task_optimizer: TaskOptimizer = "adam"
    """"adam", or "sgd" for the plain gradient steps of MAML and its kin."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learned factors on the length of a parameter's steps (Meta-SGD), by name; 1 of others."""
    photo: PhotoRange = field(default_factory=PhotoRange)
    """With a trunk: ranges of the views of support images, before those of `augment`."""
    views: Natural = 4
    """With a trunk: views of a support image that go through it; with 0 each image is its own view,
    and the head is of images alone."""
    parameters: int
    """Weights of the supernet."""
    weights_sha256: str
    """SHA-256 of the weights file, in hex."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measured accuracies in percent: setting -> figures; `metanas scores` adds them."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Data, split, terms, meta-learner, iterations, validation, seed, versions, revision of the
    code (of a git checkout), machine, duration, date."""
    format_version: int = FORMAT_VERSION
    digest: str = field(default="", init=False, compare=False)
    """Identity of the checkpoint: `digest_of` its stored card."""

    def __post_init__(self) -> None:
        check(self)
        check_input(self.input, self.space)
        check_options(self.defaults, self.input, self.space, "defaults")
        object.__setattr__(self, "digest", digest_of(schema.dump(self)))

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the candidate operations."""
        return self.space.ops

    @property
    def weights_file(self) -> str:
        """Name of the weights file. It contains the digest, so no other card fits the file."""
        return WEIGHTS_FILES.replace("*", self.weights_sha256[:16])


def digest_of(stored: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the stored fields that decide the result of an adaptation.

    The fields count as they are in the file, in canonical JSON. An option that a later release adds
    is not in an older file, so it does not change the digest of an older checkpoint.
    """
    deciding = {name: value for name, value in stored.items() if name not in DESCRIPTIVE}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def read_card(folder: Path) -> CheckpointCard:
    """Read the card of the checkpoint in `folder`.

    Raises:
        CheckpointError: the card is missing (CHECKPOINT_MISSING), of another format version
            (CHECKPOINT_FORMAT), or unreadable (CHECKPOINT_DAMAGED).
    """
    path = folder / CARD_FILE
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        inside = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{CARD_FILE}")))
        hint = f"; choose one of the checkpoints in it: {inside}" if inside else ""
        message = f"{folder} is no checkpoint: it has no {CARD_FILE}{hint}"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except (OSError, ValueError) as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path} cannot be read: {error}") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        message = f"{path} has format version {version!r}; this release reads {FORMAT_VERSION}"
        raise CheckpointError("CHECKPOINT_FORMAT", message)
    try:
        card = schema.build(CheckpointCard, raw)
    except InvalidInput as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path}: {error}") from error
    object.__setattr__(card, "digest", digest_of(raw))
    return card


def card_markdown(card: CheckpointCard) -> str:
    """Return the model card as a page for people, with front matter for model hubs."""
    space = card.space
    widths, stem = (", ".join(map(str, each)) for each in (space.channels, space.stem_channels))
    begin = f"trunk {space.trunk}" if space.trunk else f"stem {stem}, stride {space.stem_stride}"
    fields = f", features of {space.grid}×{space.grid} fields" if space.grid > 1 else ""
    kind = "grey" if card.input.channels == 1 else "RGB"
    shift = card.defaults.shift_pixels
    looks = {"looks": f"five at each image, four of them shifted by {shift} px"} if shift else {}
    facts = {
        "input": f"{kind} images, resized to {card.input.size}×{card.input.size}",
        "network": f"{begin}; {space.cells} cells of {space.nodes} nodes, widths {widths}{fields}",
        **looks,
        "operations": ", ".join(space.ops),
        "relaxation": card.relaxation,
        "supernet": f"{card.parameters} parameters",
        **{name.replace("_", " "): value for name, value in card.provenance.items()},
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    for setting, figures in card.scores.items():
        row = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        rows.append(f"| {setting} | {row} |")
    head = [FRONT_MATTER, f"# {card.name}", "", card.description, "", "| | |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def card_json(card: CheckpointCard) -> str:
    """Return the text of the card's file."""
    return stored_json(schema.dump(card))


def stored_json(stored: Mapping[str, Any]) -> str:
    """Return the text of a card's file from its fields."""
    return json.dumps(stored, indent=2) + "\n"
