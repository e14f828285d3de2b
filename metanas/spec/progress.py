"""Progress of an adaptation while it runs."""

from dataclasses import dataclass
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
