"""Paired comparison: two evaluations on the same episodes, whose differences vary far less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metanas_data.errors import EvaluationError
from metanas_data.evaluations import StoredEvaluation
from metanas_data.intervals import Mean, mean_of

IDENTITY = ("dataset_digest", "split", "ways", "shots", "queries", "seed")
"""The settings that say which episodes are drawn."""
LEAST = 2
"""Episodes without which there is no interval."""


@dataclass(frozen=True)
class Comparison:
    """The first less the second, episode by episode."""

    difference: Mean
    """Of the accuracies, -1 to 1."""
    won: int
    """Episodes in which the first is better."""
    lost: int
    tied: int

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return self.won + self.lost + self.tied


def compare(one: StoredEvaluation, other: StoredEvaluation) -> Comparison:
    """Compare two evaluations on the episodes that both have.

    Raises:
        EvaluationError: EPISODES_DIFFER, their episodes are not the same; TOO_FEW_EPISODES.
    """
    _check_same(one.settings, other.settings, IDENTITY)
    for left, right in zip(one.episodes, other.episodes, strict=False):
        if "support_digest" in left and "support_digest" in right:  # the client keeps none
            _check_same(left, right, ("support_digest",))
    both = min(len(one.episodes), len(other.episodes))
    return paired(one.column("accuracy")[:both], other.column("accuracy")[:both])


def paired(one: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare accuracies on the same episodes, in the same order.

    Raises:
        EvaluationError: TOO_FEW_EPISODES.
    """
    if len(one) < LEAST:
        message = f"there is no interval of {len(one)} episode(s); evaluate at least {LEAST}"
        raise EvaluationError("TOO_FEW_EPISODES", message)
    differences = [left - right for left, right in zip(one, other, strict=True)]
    won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Comparison(mean_of(differences), won, lost, len(differences) - won - lost)


def _check_same(one: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> None:
    differing = [
        f"{key}: {one.get(key)!r} and {other.get(key)!r}"
        for key in keys
        if one.get(key) != other.get(key)
    ]
    if differing:
        message = (
            f"these are not the same episodes ({'; '.join(differing)}); evaluate both with the "
            "same --data, --split, --rotations, --ways, --shots, --queries and --seed"
        )
        raise EvaluationError("EPISODES_DIFFER", message)
