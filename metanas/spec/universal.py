"""The universal search space: branches, and a prior over them; a file beside the checkpoints.

A *branch* is a way from an image to features: the network of a checkpoint at an input size. The
features of a model are those of its branches side by side, each in proportion to its *share*. The
prior gives the shares of a task from its support set. This module needs no torch.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from metanas.errors import CheckpointError, InvalidInput
from metanas.spec.options import AdaptConfig
from metanas.spec.search_space import SearchSpace
from metanas.util import dataclass_json as schema
from metanas.util.fields import (
    Fraction,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    check,
    require,
)

UNIVERSAL = "universal"
"""Name of the universal search space, beside the names of checkpoints."""
UNIVERSAL_FILE = f"{UNIVERSAL}.json"
BINS = 8
"""Bins of a histogram of the support set."""
SCALES = (1, 2, 4)
"""Sides in pixels of the means between which edges are measured."""
DESCRIPTION = (2 + len(SCALES)) * BINS + 1
"""Bins of all histograms: of brightness, of colourfulness, and of edges at each scale; and a number
for the shots."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A way from an image to features."""

    checkpoint: str
    """Name of its checkpoint."""
    size: Natural = 0
    """Side in pixels to which images are resized, behind a trunk; 0 for that of the checkpoint."""
    keep: Fraction = 0.0
    """Part of the way back from the learned metric to that of the frozen trunk."""
    last_block: bool = False
    """The pooled last block of the trunk is the only feature, as published: no learned metric."""
    beside: str = ""
    """Name of the branch with which it shares a model that would have that branch alone. It has no
    other share. Empty for a branch with shares of its own."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of a branch for one image."""

    macs: Natural
    """Multiply-accumulates, without those of its trunk."""
    parameters: Natural
    """Weights, without those of its trunk."""
    trunk_macs: Natural = 0
    """Multiply-accumulates of its trunk, which branches of one checkpoint and size share."""
    trunk_parameters: Natural = 0
    """Weights of its trunk, which branches of one checkpoint share."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class UniversalConfig:
    """The configuration of the universal search space."""

    branches: Mapping[str, Branch]
    """Name of a branch -> the branch."""
    least_share: Fraction = 0.25
    """Branches with a smaller share do not run; the largest always does."""
    price: NonNegative = 0.05
    """Cross entropy that 365 million multiply-accumulates may cost, when the prior is fitted."""
    defaults: AdaptConfig
    """Options of an adaptation; a request may override them."""

    def __post_init__(self) -> None:
        check(self)
        own = {name for name, branch in self.branches.items() if not branch.beside}
        others = {branch.beside for branch in self.branches.values()} - {""}
        require(
            ("branches", len(own) > 0, "must name a branch, one that is not beside another"),
            ("branches", others <= own, "must be beside a branch that is not beside another"),
        )


@dataclass(frozen=True, kw_only=True)
class Universal:
    """Branches, and a multinomial logistic regression of their shares on the support set."""

    config: UniversalConfig
    """Branches and settings."""
    checkpoints: Mapping[str, str]
    """Name of a checkpoint -> its digest."""
    costs: Mapping[str, Costs]
    """Name of a branch -> its costs."""
    weights: tuple[tuple[float, ...], ...]
    """A row a branch, with a number for each of the description."""
    bias: tuple[float, ...]
    """A number a branch."""
    scale: Positive
    """Scale of the logits."""
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Name of a branch -> milliseconds for one image, which `metanas profile` measures;
    empty if nothing was measured."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Data, date and versions."""
    format_version: Annotated[int, OneOf((2,))] = 2

    def __post_init__(self) -> None:
        check(self)
        rows = len(self.branches)
        numbers = [*self.bias, *(number for row in self.weights for number in row)]
        sizes = {len(row) for row in self.weights}
        known = {branch.checkpoint for branch in self.branches.values()}
        require(
            ("checkpoints", known == set(self.checkpoints), "must be those of the branches"),
            ("costs", set(self.costs) == set(self.branches), "must be those of the branches"),
            ("weights", len(self.weights) == rows, "must have a row for each branch"),
            ("weights", sizes == {DESCRIPTION}, f"must have {DESCRIPTION} numbers a row"),
            ("bias", len(self.bias) == rows, "must have a number for each branch"),
            ("weights", all(map(isfinite, numbers)), "must be finite, and so must be the bias"),
            (
                "milliseconds",
                set(self.milliseconds) in (set(), set(self.branches)),
                "must be those of the branches",
            ),
            (
                "milliseconds",
                all(isfinite(each) and each > 0 for each in self.milliseconds.values()),
                "must be above 0",
            ),
        )

    @property
    def branches(self) -> Mapping[str, Branch]:
        """Name of a branch -> the branch."""
        return self.config.branches

    @property
    def digest(self) -> str:
        """SHA-256 of the file's text, digests of its checkpoints included, in hex."""
        return hashlib.sha256(universal_json(self).encode()).hexdigest()

    def check_checkpoints(self, digests: Mapping[str, str]) -> None:
        """Check that the prior was fitted for these checkpoints, name -> digest.

        Raises:
            CheckpointError: CHECKPOINT_MISSING, CHECKPOINT_CHANGED.
        """
        again = f"fit {UNIVERSAL_FILE} again with `metanas universal`, or remove it"
        for name, digest in self.checkpoints.items():
            if name not in digests:
                message = f"{UNIVERSAL_FILE} needs the checkpoint {name!r}, which is missing; "
                raise CheckpointError("CHECKPOINT_MISSING", message + again)
            if digests[name] != digest:
                message = f"checkpoint {name!r} has changed since {UNIVERSAL_FILE} was fitted; "
                raise CheckpointError("CHECKPOINT_CHANGED", message + again)


def space_of(space: SearchSpace, branch: Branch) -> SearchSpace:
    """Return the search space of a branch, from that of its checkpoint.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    if not branch.last_block:
        return space
    require(("last_block", bool(space.trunk), "needs a checkpoint with a pretrained trunk"))
    return replace(space, pools=space.trunk_pools[-1:])


def macs_of_branches(universal: Universal, names: Collection[str]) -> int:
    """Count the multiply-accumulates for one image of these branches together."""
    branches, costs = universal.branches, universal.costs
    trunks = {
        (branches[name].checkpoint, branches[name].size): costs[name].trunk_macs for name in names
    }
    return sum(trunks.values()) + sum(costs[name].macs for name in names)


def parameters_of_branches(universal: Universal, names: Collection[str]) -> int:
    """Count the weights of these branches together, without those of the head."""
    branches, costs = universal.branches, universal.costs
    trunks = {branches[name].checkpoint: costs[name].trunk_parameters for name in names}
    own = {
        (each.checkpoint, each.keep, each.last_block): costs[name].parameters
        for name, each in branches.items()
        if name in names
    }
    return sum(trunks.values()) + sum(own.values())


def milliseconds_of_branches(universal: Universal, names: Collection[str]) -> float:
    """Add up the milliseconds for one image of these branches together, by the table.

    A trunk takes the part of its branch's time that it has of its multiply-accumulates.
    """
    total, trunks = 0.0, dict[tuple[str, int], float]()
    for name in names:
        branch, costs = universal.branches[name], universal.costs[name]
        part = costs.trunk_macs / max(1, costs.trunk_macs + costs.macs)
        key, time = (branch.checkpoint, branch.size), universal.milliseconds[name]
        total += time * (1 - part)
        trunks[key] = max(trunks.get(key, 0.0), time * part)
    return total + sum(trunks.values())


def universal_json(universal: Universal) -> str:
    """Return the text of the file."""
    return json.dumps(schema.dump(universal)) + "\n"


def read_universal(path: Path) -> Universal:
    """Read the file.

    Raises:
        CheckpointError: CHECKPOINT_MISSING, there is no such file; CHECKPOINT_DAMAGED.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        return schema.build(Universal, raw)
    except FileNotFoundError as error:
        fit = "fit it with `metanas universal`, or name a checkpoint"
        raise CheckpointError("CHECKPOINT_MISSING", f"there is no {path}; {fit}") from error
    except (OSError, ValueError, InvalidInput) as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path} cannot be read: {error}") from error
