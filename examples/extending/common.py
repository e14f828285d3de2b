"""Shared parts of the examples of extensions: a small configuration, a few steps on digits."""

from pathlib import Path

from metanas.training.config import RunConfig
from metanas.training.config_file import read_config
from metanas.training.extensions import Extensions
from metanas.training.trainer import MetaTrainer
from metanas_data.datasets.stacks import Classes, load

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "space.channels = [4, 4]",
    "space.reductions = [1]",
    "task.ways = [3, 5]",
    "task.shots = [1]",
    "task.images = 20",
    "search = { warm_up = 0, settle = 0 }",
    "train.validation_episodes = 2",
    "train.iterations = 3",
)


def small_config(*overrides: str) -> RunConfig:
    """The shipped configuration, made small, and what an example changes."""
    return read_config(ROOT / "configs" / "omniglot.toml", [*SMALL, *overrides])


def digits() -> Classes:
    """Ten classes of ten images."""
    return load(ROOT / "examples" / "digits", "query", size=28, channels=1)


def train(config: RunConfig, extensions: Extensions, classes: Classes) -> None:
    """Run the configuration in memory, and say how it went."""
    trainer = MetaTrainer(config, classes, digits(), extensions=extensions)
    for _ in range(config.train.iterations):
        seen = trainer.iterate()
        print(f"iteration {seen.iteration}: loss {seen.loss:.3f}, accuracy {seen.accuracy:.0%}")
