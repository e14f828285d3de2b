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
    """Read the shipped configuration, make it small and apply the overrides of an example."""
    return read_config(ROOT / "configs" / "omniglot.toml", [*SMALL, *overrides])


def digits() -> Classes:
    """Load ten classes of ten images."""
    return load(ROOT / "examples" / "digits", "query", size=28, channels=1)


def train(config: RunConfig, extensions: Extensions, classes: Classes) -> None:
    """Meta-train in memory and print the loss and the accuracy of each iteration."""
    trainer = MetaTrainer(config, classes, digits(), extensions=extensions)
    for _ in range(config.train.iterations):
        done = trainer.iterate()
        print(f"iteration {done.iteration}: loss {done.loss:.3f}, accuracy {done.accuracy:.0%}")
