"""What tests, ours and those of extensions, stand on: contract checks and tiny checkpoints."""

from pathlib import Path

import torch

from metanas.card import CheckpointCard, InputSpec
from metanas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metanas.ops import OPS
from metanas.options import AdaptConfig, AffineRange
from metanas.space import SearchSpace
from metanas.supernet import Supernet, initialise


def make_checkpoint(
    folder: Path,
    *,
    channels: int = 1,
    size: int = 16,
    width: int = 4,
    seed: int = 0,
    options: AdaptConfig | None = None,
) -> Checkpoint:
    """Write and load a small untrained checkpoint; its name is its folder's."""
    space = SearchSpace(
        input_channels=channels,
        ops=tuple(name for name in OPS if name != "zero"),
        channels=(width, width),
        reductions=(1,),
        nodes=2,
        stem_channels=2 * width,
        stem_stride=1,
    )
    supernet = Supernet(space, OPS)
    initialise(supernet, torch.Generator().manual_seed(seed))
    card = CheckpointCard(
        name=folder.name,
        description="An untrained network for tests.",
        input=InputSpec(
            channels=channels, size=size, mean=(0.0,) * channels, std=(1.0,) * channels
        ),
        space=space,
        defaults=options or AdaptConfig(steps=3, tuning_steps=2),
        augment=AffineRange(),
        parameters=0,
        weights_sha256="",
    )
    save_checkpoint(folder, card, supernet, dict(supernet.named_parameters()))
    return load_checkpoint(folder)
