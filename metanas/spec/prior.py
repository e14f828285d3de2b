"""The prior over checkpoints: a file beside them, checked when it is read; needs no torch."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

from metanas.errors import CheckpointError, InvalidInput
from metanas.util import dataclass_json as schema
from metanas.util.fields import OneOf, check, require

PRIOR_FILE = "prior.json"
BINS = 8
"""Bins of a histogram of the support set."""
SCALES = (1, 2, 4)
"""Sides in pixels of the means between which edges are measured."""
DESCRIPTION = (2 + len(SCALES)) * BINS + 1
"""Bins of all histograms: of brightness, of colourfulness, and of edges at each scale; and a number
for the shots."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A multinomial logistic regression p(checkpoint | support set)."""

    checkpoints: Mapping[str, str]
    """Name of a candidate -> its digest."""
    weights: tuple[tuple[float, ...], ...]
    """A row a candidate, with a number for each of the description."""
    bias: tuple[float, ...]
    """A number a candidate."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Data, date and versions."""
    format_version: Annotated[int, OneOf((1,))] = 1

    def __post_init__(self) -> None:
        check(self)
        rows = len(self.checkpoints)
        numbers = [*self.bias, *(number for row in self.weights for number in row)]
        sizes = {len(row) for row in self.weights}
        require(
            ("weights", len(self.weights) == rows, "must have a row for each checkpoint"),
            ("weights", sizes == {DESCRIPTION}, f"must have {DESCRIPTION} numbers a row"),
            ("bias", len(self.bias) == rows, "must have a number for each checkpoint"),
            ("weights", all(map(isfinite, numbers)), "must be finite, and so must be the bias"),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the prior, digests of its checkpoints included, in hex."""
        return hashlib.sha256(prior_json(self).encode()).hexdigest()

    def check_checkpoints(self, digests: Mapping[str, str]) -> None:
        """Check that the prior was fitted for these checkpoints, name -> digest.

        Raises:
            CheckpointError: CHECKPOINT_MISSING, CHECKPOINT_CHANGED.
        """
        again = f"fit {PRIOR_FILE} again with `python -m metanas prior`, or remove it"
        for name, digest in self.checkpoints.items():
            if name not in digests:
                message = f"the prior chooses among checkpoints of which {name!r} is missing; "
                raise CheckpointError("CHECKPOINT_MISSING", message + again)
            if digests[name] != digest:
                message = f"checkpoint {name!r} has changed since the prior was fitted; "
                raise CheckpointError("CHECKPOINT_CHANGED", message + again)


def prior_json(prior: Prior) -> str:
    """Return the text of the file."""
    return json.dumps(schema.dump(prior)) + "\n"


def read_prior(path: Path) -> Prior:
    """Read a prior.

    Raises:
        CheckpointError: CHECKPOINT_MISSING, there is no such file; CHECKPOINT_DAMAGED.
    """
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
        return schema.build(Prior, raw)
    except FileNotFoundError as error:
        message = f"there is no {path}; fit it with `python -m metanas prior`, or name a checkpoint"
        raise CheckpointError("CHECKPOINT_MISSING", message) from error
    except (OSError, ValueError, InvalidInput) as error:
        raise CheckpointError("CHECKPOINT_DAMAGED", f"{path} cannot be read: {error}") from error
