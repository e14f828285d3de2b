"""A meta-training run on disk: its log, its snapshots, its best checkpoint.

Snapshots are written atomically and resumed exactly: with the same number of threads, a run that
was killed and resumed ends with the same bits as one that was not.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metanas import __version__, data, schema
from metanas.card import PAGE_FILE, CheckpointCard, card_markdown
from metanas.checkpoint import ALIVE_PREFIX, save_checkpoint, write_atomic
from metanas.config import RunConfig
from metanas.episodes import Classes, with_rotations
from metanas.errors import CheckpointError, InvalidInput
from metanas.genotype import CELL_KINDS
from metanas.train import MetaTrainer, Progress

SNAPSHOT_FILE = "snapshot.safetensors"
LOG_FILE = "log.jsonl"
META, ADAM = "meta.", "adam."
UNREADABLE = (OSError, SafetensorError, InvalidInput, ValueError, KeyError, TypeError, RuntimeError)
"""What reading a snapshot raises when the file is not what `save_snapshot` wrote."""


@dataclass(frozen=True)
class Best:
    """The best validation so far: pruned accuracy, and the iteration that reached it."""

    accuracy: float = -1.0
    iteration: int = 0


def run(
    config: RunConfig, folder: Path, *, resume: bool, on_progress: Callable[[Progress], None]
) -> Best:
    """Train to the end, or on from the last snapshot; returns the best validation.

    Raises:
        DatasetError: the data cannot be used.
        CheckpointError: nothing to resume from, something damaged, or a run that is already there.
        Diverged: the loss became NaN or infinite; the last snapshot is good.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if not resume and (folder / SNAPSHOT_FILE).exists():
        message = f"{folder} holds a run already; go on with --resume, or choose another --out"
        raise CheckpointError("RUN_EXISTS", message)
    trainer = MetaTrainer(config, *_classes(config))
    best = load_snapshot(folder, trainer) if resume else Best()
    folder.mkdir(parents=True, exist_ok=True)
    while trainer.iteration < config.train.iterations:
        seen = trainer.iterate()
        on_progress(seen)
        if not math.isnan(seen.pruned):
            best = _record(folder, trainer, seen, best)
    return best


def _classes(config: RunConfig) -> tuple[Classes, Classes]:
    """Classes to train on and classes to validate on."""
    spec = config.input
    train, val = (
        data.load(config.data.path, split, size=spec.size, channels=spec.channels)
        for split in (config.data.train_split, config.data.val_split)
    )
    return with_rotations(train) if config.data.rotations else train, val


def _record(folder: Path, trainer: MetaTrainer, seen: Progress, best: Best) -> Best:
    """Log a validation, keep the checkpoint if it is the best so far, and write a snapshot."""
    if seen.pruned > best.accuracy:
        best = Best(seen.pruned, seen.iteration)
        _save(folder / "checkpoint", trainer, seen)
    save_snapshot(folder, trainer, best)
    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"time": time.time(), **schema.dump(seen)}) + "\n")
    return best


def save_snapshot(folder: Path, trainer: MetaTrainer, best: Best) -> None:
    """Write all that the run needs to go on as if it had never stopped, in one file."""
    header = {
        "config": schema.dump(trainer.config),
        "iteration": trainer.iteration,
        "random": trainer.random.bit_generator.state,
        "best": schema.dump(best),
    }
    tensors = {META + k: v for k, v in trainer.meta.items()}
    for index, state in trainer.optimizer.adam.state_dict()["state"].items():
        tensors |= {f"{ADAM}{index}.{k}": v for k, v in state.items()}
    for kind in CELL_KINDS:
        tensors[ALIVE_PREFIX + kind] = trainer.supernet.cell_alpha(kind).alive.to(torch.uint8)
    tensors["generator"] = trainer.generator.get_state()
    raw = safetensors.torch.save(tensors, {"run": json.dumps(header)})
    write_atomic(folder / SNAPSHOT_FILE, raw)


def load_snapshot(folder: Path, trainer: MetaTrainer) -> Best:
    """Bring a fresh trainer of the same configuration to where the run in `folder` stood.

    The number of iterations and how often to validate may differ; everything else must not.

    Raises:
        CheckpointError: no snapshot, a damaged one, or one of another configuration.
    """
    path = folder / SNAPSHOT_FILE
    try:
        raw = path.read_bytes()
        tensors = safetensors.torch.load(raw)
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["run"])
        _check_same(path, header["config"], trainer.config)
        _restore(trainer, header, tensors)
        return schema.build(Best, header["best"])
    except FileNotFoundError as error:
        message = f"{folder} has no {SNAPSHOT_FILE} to resume from; start without --resume"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except UNREADABLE as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path} cannot be read: {error!r}") from error


def _check_same(path: Path, stored: dict[str, Any], config: RunConfig) -> None:
    ours = json.loads(json.dumps(schema.dump(config)))
    for free in ("iterations", "validate_every", "threads"):
        stored["train"].pop(free, None)
        ours["train"].pop(free)
    for section, value in ours.items():
        if stored.get(section) != value:
            message = f"{path} was written with another [{section}]: {stored.get(section)}"
            raise CheckpointError("CHECKPOINT_FORMAT", message)


def _restore(trainer: MetaTrainer, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    trainer.iteration = header["iteration"]
    trainer.random.bit_generator.state = header["random"]
    trainer.generator.set_state(tensors["generator"])
    for name, value in trainer.meta.items():
        value.copy_(tensors[META + name])
    for kind in CELL_KINDS:
        trainer.supernet.cell_alpha(kind).alive.copy_(tensors[ALIVE_PREFIX + kind].bool())
    adam = trainer.optimizer.adam
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(ADAM):
            index, key = name.removeprefix(ADAM).split(".")
            state.setdefault(int(index), {})[key] = value
    adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})


def _save(folder: Path, trainer: MetaTrainer, seen: Progress) -> None:
    """Write the checkpoint and its model card."""
    card = card_of(trainer, seen)
    card = save_checkpoint(folder, card, trainer.supernet, trainer.meta)
    write_atomic(folder / PAGE_FILE, card_markdown(card).encode())


def card_of(trainer: MetaTrainer, seen: Progress) -> CheckpointCard:
    """The card of the checkpoint that the run would write now, validated as `seen` says."""
    config = trainer.config
    return CheckpointCard(
        name=config.name,
        description=config.description,
        input=config.input,
        space=config.space,
        defaults=config.adapt,
        augment=config.augment,
        parameters=sum(p.numel() for p in trainer.meta.values()),
        weights_sha256="",
        provenance={
            "data": Path(config.data.path).name,
            "split": config.data.train_split,
            "terms": config.data.licence,
            "meta_learner": "REPTILE",
            "relaxation": "annealed softmax (DARTS), pairwise inputs",
            "iterations": str(trainer.iteration),
            "validation": f"{seen.pruned:.1%} pruned, {seen.soft:.1%} soft, before adaptation, "
            f"{config.train.validation_episodes} episodes of split {config.data.val_split}",
            "seed": str(config.train.seed),
            "software": f"metanas {__version__}, torch {torch.__version__}",
        },
    )
