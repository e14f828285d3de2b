"""Progress of an adaptation while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan


@dataclass(frozen=True)
class Progress:
    """The start of a stage (step 0) or a finished step; NaN where a figure does not apply."""

    stage: str
    step: int
    steps: int
    loss: float = nan
    accuracy: float = nan
    """Accuracy on views of the support images, by heads without these images, 0 to 1."""
    temperature: float = nan
    entropy: float = nan
    """Mean entropy of the step's mixture over an edge's candidates, in nats; 0 is one-hot."""
    branch: str = ""
    """Branch of the universal search space that a stage begins for; empty for one checkpoint."""
    architecture: Mapping[str, float] = field(default_factory=dict)
    """Share of each branch of the model, once they are chosen; empty for one checkpoint."""
    genotype_json: str = ""
    """Genotype of the pruned network, at the start of "tune"."""
