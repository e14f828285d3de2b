"""Checkpoints: a folder with weights (safetensors) and a card (JSON), checked tensor by tensor.

Loading unpickles nothing. Each tensor must have the name, shape and dtype of the architecture in
the card, and be finite. The file must have the SHA-256 in the card.

The name of the weights contains their hash, and the card is written last. So the old checkpoint
stays valid until the new card names the new weights: the folder always has a whole checkpoint.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metanas.errors import CheckpointError, Diverged, UnknownName
from metanas.nn.devices import use_float32
from metanas.nn.ops import OPS, Op
from metanas.nn.partial_channels import candidates
from metanas.nn.trunk import Trunk
from metanas.spec.card import CARD_FILE, WEIGHTS_FILES, CheckpointCard, card_json, read_card
from metanas.spec.genotype import CELL_KINDS, Genotype
from metanas.spec.options import AdaptConfig
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import RELAXATIONS, Relaxation
from metanas.supernet.supernet import Supernet, genotype_of
from metanas_data.files import write_atomic

ALIVE_PREFIX = "alive."
TRUNK_PREFIX = "trunk."


@dataclass(frozen=True)
class Checkpoint:
    """A meta-trained supernet, ready to adapt. It is never changed."""

    card: CheckpointCard
    supernet: Supernet = field(repr=False)
    params: Params = field(repr=False)
    ops: Mapping[str, Op] = field(repr=False)
    relaxation: Relaxation = RELAXATIONS["darts"]
    """The relaxation that searches the architecture of a task."""
    trunk: Trunk | None = field(default=None, repr=False)
    """The pretrained network in front of the supernet, if there is one."""
    using: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    """A lock to hold while the supernet runs, which then contains the parameters of one caller."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.card.name

    @property
    def digest(self) -> str:
        """Its digest."""
        return self.card.digest

    @property
    def defaults(self) -> AdaptConfig:
        """Its default options."""
        return self.card.defaults

    @property
    def input_key(self) -> tuple[int, int]:
        """Identity of its input: networks behind one trunk at one size have the same."""
        return id(self.trunk or self.supernet), self.card.input.size

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.params["head.log_scale"].device

    @cached_property
    def activation_bytes(self) -> tuple[int, ...]:
        """Estimated bytes of activations of one image in a step: of the stem, and of each cell."""
        return self.supernet.activation_bytes(self.card.input.size)

    def cells_to_recompute(self, images: int, memory: int) -> int:
        """Return the number of cells to evaluate again, to keep at most `memory` bytes a step.

        The first cells are recomputed: their maps are the largest, and the activations of the last
        cells are free again when the backward pass reaches the first.
        """
        stem, *cells = self.activation_bytes
        room, count = memory - images * stem, len(cells)
        for activations in reversed(cells):
            room -= images * activations
            if room < 0:
                break
            count -= 1
        return count

    @property
    def meta_genotype(self) -> Genotype:
        """The architecture of the largest meta-alphas."""
        return genotype_of(self.supernet, self.params)


def load_checkpoint(
    folder: Path,
    *,
    ops: Mapping[str, Op] = OPS,
    relaxations: Mapping[str, Relaxation] = RELAXATIONS,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Load and verify the checkpoint in `folder`.

    Args:
        folder: the folder of the checkpoint.
        ops: operations by name.
        relaxations: relaxations by name.
        device: the device for the parameters.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another format version.
        UnknownName: the mappings lack an operation or a relaxation of the checkpoint.
    """
    use_float32(device)
    card, raw = _read(folder)
    if card.relaxation not in relaxations:
        raise UnknownName("relaxation", card.relaxation, tuple(relaxations))
    for name in card.ops:
        if name not in ops:
            raise UnknownName("op", name, tuple(ops))
    if hashlib.sha256(raw).hexdigest() != card.weights_sha256:
        fault = f"{card.weights_file} does not have the SHA-256 in {CARD_FILE}"
        raise _damaged(folder, fault)
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(folder, f"{card.weights_file} is no safetensors file: {error}") from error
    ops = candidates(card.space, ops)
    checkpoint = _assemble(folder, card, tensors, ops)
    params = {name: value.to(device) for name, value in checkpoint.params.items()}
    relaxation = relaxations[card.relaxation]
    trunk = None if checkpoint.trunk is None else checkpoint.trunk.to(device)
    return Checkpoint(card, checkpoint.supernet.to(device), params, ops, relaxation, trunk)


def _read(folder: Path) -> tuple[CheckpointCard, bytes]:
    """Read the card and the weights that it names, while a run may replace both."""
    while True:
        card = read_card(folder)
        try:
            return card, (folder / card.weights_file).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: an impossible file name
            if read_card(folder).weights_sha256 == card.weights_sha256:
                message = f"{folder} has no readable {card.weights_file}: {error}"
                raise CheckpointError("CHECKPOINT_MISSING", message) from error


def _assemble(
    folder: Path, card: CheckpointCard, tensors: Mapping[str, Tensor], ops: Mapping[str, Op]
) -> Checkpoint:
    supernet = Supernet(card.space, ops).requires_grad_(False)
    trunk = Trunk(card.space) if card.space.trunk else None
    expected = checkpoint_tensors(supernet, dict(supernet.named_parameters()), trunk)
    missing, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or extra:
        names = ", ".join(sorted(missing | extra)[:5])
        raise _damaged(folder, f"{len(missing)} tensors missing, {len(extra)} unknown: {names}")
    for name, value in tensors.items():
        like = expected[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            fault = f"{name} is {tuple(value.shape)} {value.dtype}"
            raise _damaged(folder, f"{fault}, not {tuple(like.shape)} {like.dtype}")
        if not bool(torch.isfinite(value.float()).all()):
            raise _damaged(folder, f"{name} holds NaN or infinite values")
    for kind in CELL_KINDS:
        supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
        if not bool(supernet.cell_alpha(kind).alive.any(dim=1).all()):
            raise _damaged(folder, f"an edge of the {kind} cell has no candidate operation left")
    # The same bytes need the same order of sums in each process. So parameters are in the order of
    # the supernet: that of safetensors changes from process to process. And they are copies: the
    # addresses of safetensors' tensors change the order within kernels.
    params = {
        k: tensors[k].clone() for k in expected if not k.startswith((ALIVE_PREFIX, TRUNK_PREFIX))
    }
    if trunk is not None:
        trunk.load_state_dict({k: tensors[TRUNK_PREFIX + k].float() for k in trunk.state_dict()})
    return Checkpoint(card, supernet, params, ops, trunk=trunk)


def checkpoint_tensors(
    supernet: Supernet, params: Params, trunk: Trunk | None
) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint: parameters, masks of candidates, and a trunk.

    The trunk is the largest part and is frozen; its tensors are in half precision.
    """
    frozen = {} if trunk is None else trunk.state_dict()
    halves = {TRUNK_PREFIX + name: value.half() for name, value in frozen.items()}
    alive = {
        ALIVE_PREFIX + kind: supernet.cell_alpha(kind).alive.to(torch.uint8) for kind in CELL_KINDS
    }
    return {**{k: v.detach().contiguous() for k, v in params.items()}, **alive, **halves}


def save_checkpoint(
    folder: Path,
    card: CheckpointCard,
    supernet: Supernet,
    params: Params,
    trunk: Trunk | None = None,
) -> CheckpointCard:
    """Write a checkpoint, and return its card with the digest and the number of parameters.

    A crash or a full disk leaves the old checkpoint or the new one.

    Raises:
        Diverged: a value is NaN or infinite; nothing is written.
    """
    tensors = checkpoint_tensors(supernet, params, trunk)
    check_finite(tensors)
    raw = safetensors.torch.save(tensors)
    card = replace(
        card,
        weights_sha256=hashlib.sha256(raw).hexdigest(),
        parameters=sum(p.numel() for p in params.values()),
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        write_atomic(folder / card.weights_file, raw)
        write_card(folder, card)
    finally:
        _remove_unnamed_weights(folder)
    return card


def write_card(folder: Path, card: CheckpointCard) -> None:
    """Write the card, which turns its weights into the checkpoint of the folder."""
    write_atomic(folder / CARD_FILE, card_json(card).encode())


def _remove_unnamed_weights(folder: Path) -> None:
    """Remove weights that no card names."""
    try:
        named = read_card(folder).weights_file
    except CheckpointError as error:
        if error.reason != "CHECKPOINT_MISSING":  # a damaged card may be repaired
            return
        named = ""
    for path in folder.glob(WEIGHTS_FILES):
        if path.name != named:
            path.unlink(missing_ok=True)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that all values are finite.

    Raises:
        Diverged: a value is NaN or infinite.
    """
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise Diverged(f"{name} holds NaN or infinite values")


def _damaged(folder: Path, fault: str) -> CheckpointError:
    return CheckpointError("CHECKPOINT_DAMAGED", f"{folder}: {fault}; restore the checkpoint")
