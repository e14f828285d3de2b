"""Paired comparison of two evaluations on the same episodes.

The difference within an episode varies far less than the accuracies of the episodes do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metanas_data.errors import EvaluationError
from metanas_data.evaluations import StoredEvaluation
from metanas_data.intervals import Mean, mean_of

IDENTITY = ("dataset_digest", "split", "ways", "shots", "queries", "seed")
"""Settings that determine the episodes."""


@dataclass(frozen=True)
class Comparison:
    """The first evaluation less the second, episode by episode."""

    difference: Mean
    """Of the accuracies, -1 to 1."""
    won: int
    """Number of episodes in which the first is better."""
    lost: int
    tied: int

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.won + self.lost + self.tied


def compare(one: StoredEvaluation, other: StoredEvaluation) -> Comparison:
    """Compare two evaluations on the first episodes, which both have.

    Raises:
        EvaluationError: EPISODES_DIFFER, TOO_FEW_EPISODES.
    """
    _check_equal(one.settings, other.settings, IDENTITY)
    for left, right in zip(one.episodes, other.episodes, strict=False):
        if "support_digest" in left and "support_digest" in right:
            _check_equal(left, right, ("support_digest",))
    count = min(len(one.episodes), len(other.episodes))
    return paired(one.column("accuracy")[:count], other.column("accuracy")[:count])


def paired(one: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare accuracies on the same episodes, in the same order.

    Raises:
        EvaluationError: TOO_FEW_EPISODES.
    """
    if len(one) < 2:
        message = f"{len(one)} episode(s) have no interval; evaluate at least 2"
        raise EvaluationError("TOO_FEW_EPISODES", message)
    differences = [left - right for left, right in zip(one, other, strict=True)]
    won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Comparison(mean_of(differences), won, lost, len(differences) - won - lost)


def _check_equal(one: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> None:
    differing = [
        f"{k}: {one.get(k)!r} and {other.get(k)!r}" for k in keys if one.get(k) != other.get(k)
    ]
    if differing:
        message = (
            f"the evaluations have different episodes ({'; '.join(differing)}); evaluate both with "
            "the same --data, --split, --rotations, --ways, --shots, --queries and --seed"
        )
        raise EvaluationError("EPISODES_DIFFER", message)
