"""Checkpoints: a folder of weights (safetensors) and a card (JSON), checked tensor by tensor.

Nothing is ever unpickled. What is loaded must match the architecture that the card declares in
every name, shape and dtype, be finite, and have the SHA-256 that the card states.

Weights are named by their hash, so a new checkpoint lies beside the old one until the card, written
last, names it: at every moment a folder holds one whole checkpoint, for readers too.
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
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import RELAXATIONS, Relaxation
from metanas.supernet.supernet import Supernet, genotype_of
from metanas_data.files import write_atomic

ALIVE_PREFIX = "alive."
TRUNK_PREFIX = "trunk."


@dataclass(frozen=True)
class Checkpoint:
    """A meta-trained supernet, ready to adapt. Nothing in it is ever written to."""

    card: CheckpointCard
    supernet: Supernet = field(repr=False)
    params: Params = field(repr=False)
    ops: Mapping[str, Op] = field(repr=False)
    relaxation: Relaxation = RELAXATIONS["darts"]
    """What its tasks' architectures are searched with."""
    trunk: Trunk | None = field(default=None, repr=False)
    """What images go through before they reach the supernet, if anything."""
    using: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    """Held while the supernet runs: it carries the parameters of whoever runs it meanwhile."""

    @property
    def device(self) -> torch.device:
        """The device that adapts its tasks."""
        return self.params["head.log_scale"].device

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """About how many bytes of an image a step keeps for its backward pass: stem, each cell."""
        return self.supernet.kept(self.card.input.size)

    def cells_to_recompute(self, images: int, memory: int) -> int:
        """Return the number of first cells to evaluate again, to keep at most so many bytes.

        The first, since they see the largest maps, and since the last cells' activations are gone
        by the time that the backward pass comes to them.
        """
        stem, *cells = self.kept
        room, again = memory - images * stem, len(cells)
        for kept in reversed(cells):
            room -= images * kept
            if room < 0:
                break
            again -= 1
        return again

    @property
    def meta_genotype(self) -> Genotype:
        """The discrete architecture at the maximum of the meta-alphas."""
        return genotype_of(self.supernet, self.params)


def load_checkpoint(
    folder: Path,
    *,
    ops: Mapping[str, Op] = OPS,
    relaxations: Mapping[str, Relaxation] = RELAXATIONS,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Load and verify the checkpoint in `folder`, onto the device that is to adapt it.

    Raises:
        CheckpointError: missing, damaged, or of another format version.
        UnknownName: it uses an operation or a relaxation that the mappings have not.
    """
    use_float32(device)
    card, raw = _read(folder)
    if card.relaxation not in relaxations:
        raise UnknownName("relaxation", card.relaxation, tuple(relaxations))
    for name in card.ops:
        if name not in ops:
            raise UnknownName("op", name, tuple(ops))
    if hashlib.sha256(raw).hexdigest() != card.weights_sha256:
        told = f"{card.weights_file} does not have the SHA-256 that {CARD_FILE} states"
        raise _damaged(folder, told)
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
    """The card and the weights that it names, of a folder in which a run may replace both."""
    while True:
        card = read_card(folder)
        try:
            return card, (folder / card.weights_file).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: what cannot be a name
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
            found = f"{tuple(value.shape)} {value.dtype}"
            raise _damaged(folder, f"{name} is {found}, not {tuple(like.shape)} {like.dtype}")
        if not bool(torch.isfinite(value.float()).all()):
            raise _damaged(folder, f"{name} holds NaN or infinite values")
    for kind in CELL_KINDS:
        supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
        if not bool(supernet.cell_alpha(kind).alive.any(dim=1).all()):
            raise _damaged(folder, f"an edge of the {kind} cell has no candidate operation left")
    # In the supernet's order, because safetensors hands them out in another order in each process,
    # and copied, because its tensors lie at any address. Sums over parameters, and within kernels,
    # would else be taken in an order that changes from process to process: bytes would not repeat.
    params = {
        k: tensors[k].clone() for k in expected if not k.startswith((ALIVE_PREFIX, TRUNK_PREFIX))
    }
    if trunk is not None:
        trunk.load_state_dict({k: tensors[TRUNK_PREFIX + k].float() for k in trunk.state_dict()})
    return Checkpoint(card, supernet, params, ops, trunk=trunk)


def checkpoint_tensors(
    supernet: Supernet, params: Params, trunk: Trunk | None
) -> dict[str, Tensor]:
    """All tensors of a checkpoint: parameters, per cell kind which candidates are alive, a trunk.

    The trunk, which is most of it and does not learn, is in half precision.
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
    """Write a checkpoint; the returned card has the digest and the size of what was written.

    A crash at any moment, or a full disk, leaves the checkpoint that was there, or the new one.

    Raises:
        Diverged: a value is NaN or infinite; nothing was written.
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
    """Write the card; from then on the folder holds the checkpoint that it describes."""
    write_atomic(folder / CARD_FILE, card_json(card).encode())


def _remove_unnamed_weights(folder: Path) -> None:
    """Clear away weights that were replaced, or whose card could not be written."""
    try:
        named = read_card(folder).weights_file
    except CheckpointError as error:
        if error.reason != "CHECKPOINT_MISSING":  # who can mend a card wants its weights
            return
        named = ""
    for path in folder.glob(WEIGHTS_FILES):
        if path.name != named:
            path.unlink(missing_ok=True)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Keep what has diverged from replacing what is sound.

    Raises:
        Diverged: a value is NaN or infinite.
    """
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise Diverged(f"{name} holds NaN or infinite values")


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError("CHECKPOINT_DAMAGED", f"{folder}: {what}; restore the checkpoint")
