"""Evaluations as `metanas evaluate --local --out` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metanas_data.evaluations import write_evaluation

SETTINGS = {
    "dataset": "omniglot_28.npz",
    "dataset_digest": "d",
    "split": "val",
    "classes": 9,
    "ways": 5,
    "shots": 1,
    "queries": 5,
    "seed": 0,
    "checkpoint": "omniglot",
    "checkpoint_digest": "c",
    "software": "metanas 0",
}


def evaluation(
    path: Path,
    accuracies: Sequence[float],
    options: Mapping[str, Any],
    figures: Mapping[str, float] | None = None,
    **changes: Any,
) -> str:
    """Write an evaluation with these figures in every episode; return its path."""
    shared = {**(figures or {})}
    episodes = [{"episode": i, "accuracy": value, **shared} for i, value in enumerate(accuracies)]
    write_evaluation(path, {**SETTINGS, "options": dict(options), **changes}, episodes)
    return str(path)
