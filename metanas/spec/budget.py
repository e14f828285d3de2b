"""Budgets: limits of a request on the costs of its model, and the refusal of those out of reach.

This module needs no torch, so that a server can refuse a request before any work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metanas.errors import InvalidInput, Violation
from metanas.spec.card import CheckpointCard
from metanas.spec.options import AdaptConfig
from metanas.spec.universal import (
    Universal,
    macs_of_branches,
    milliseconds_of_branches,
    parameters_of_branches,
    space_of,
)

LEAST_WAYS = 2
"""Fewest classes of a task."""
FIGURES = {
    "macs": "multiply-adds",
    "parameters": "parameters",
    "bytes": "bytes",
    "milliseconds": "milliseconds",
}
"""Names of the costs -> their units in words. The option `max_macs` limits the cost `macs`."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The costs of a model, 0 where one is not known."""

    macs: int
    """Multiply-accumulates for one image."""
    parameters: int
    """Weights, head included."""
    bytes: int = 0
    """Bytes of the ONNX file."""
    milliseconds: float = 0.0
    """Milliseconds for one image."""

    def fits(self, limits: Mapping[str, float]) -> bool:
        """Return True if no cost is above its limit."""
        return all(getattr(self, name) <= limit for name, limit in limits.items())


def limits_of(options: AdaptConfig) -> dict[str, float]:
    """Return the limits that the options set, by the name of the cost."""
    limits = {name: getattr(options, f"max_{name}") for name in FIGURES}
    return {name: limit for name, limit in limits.items() if limit}


def too_small(footprints: Sequence[Footprint], limits: Mapping[str, float]) -> InvalidInput:
    """Make the error of limits that none of these models meets.

    The error names the smallest cost of the models that meet the other limits, or of all models if
    there are none.
    """
    violations = []
    for name, limit in limits.items():
        others = {key: value for key, value in limits.items() if key != name}
        rest = [each for each in footprints if each.fits(others)] or footprints
        least = min(getattr(each, name) for each in rest)
        if least > limit:
            message = f"no model has so few {FIGURES[name]}; the smallest has {_rounded(least)}"
            violations.append(Violation(f"options.max_{name}", "BUDGET_TOO_SMALL", message))
    return InvalidInput(violations or [_together(limits)])


def _rounded(figure: float) -> str:
    """Return a figure as text, not below the figure."""
    return str(figure) if isinstance(figure, int) else f"{figure + 0.005:.2f}"


def _together(limits: Mapping[str, float]) -> Violation:
    names = ", ".join(f"max_{name}" for name in limits)
    message = f"no model meets {names} together; raise one of them"
    return Violation("options", "BUDGET_TOO_SMALL", message)


def footprint_of(
    universal: Universal,
    cards: Mapping[str, CheckpointCard],
    names: Sequence[str],
    *,
    ways: int = LEAST_WAYS,
    looks: int = 1,
) -> Footprint:
    """Compute the costs of a model of these branches; the bytes of its file are not known.

    cards: the card of each checkpoint, by its name.
    looks: number of copies of an image that the model sees.
    """
    branches = [universal.branches[name] for name in names]
    spaces = [space_of(cards[branch.checkpoint].space, branch) for branch in branches]
    head = ways * (sum(space.features for space in spaces) + 1)
    time = milliseconds_of_branches(universal, names) if universal.milliseconds else 0.0
    return Footprint(
        macs=looks * macs_of_branches(universal, names),
        parameters=parameters_of_branches(universal, names) + head,
        milliseconds=looks * time,
    )


def check_reachable(
    universal: Universal, cards: Mapping[str, CheckpointCard], options: AdaptConfig
) -> None:
    """Check that a model of one branch and two classes meets the limits on all but its file.

    cards: the card of each checkpoint, by its name.

    Raises:
        InvalidInput: BUDGET_TOO_SMALL, PROFILE_MISSING.
    """
    limits = limits_of(options)
    if "milliseconds" in limits and not universal.milliseconds:
        message = (
            "the server has no table of milliseconds; measure one with `metanas profile` "
            "in the folder of the checkpoints, or leave this option out"
        )
        raise InvalidInput.single("options.max_milliseconds", "PROFILE_MISSING", message)
    footprints = [footprint_of(universal, cards, [name]) for name in universal.branches]
    if not any(each.fits(limits) for each in footprints):
        raise too_small(footprints, limits)
