"""Stored evaluations, one JSON document each: settings, a summary, and a record an episode.

Settings and figures have the names of the client's `metanas evaluate`, whose documents are read as
well: `accuracy` is that of the exported file on the queries, `support_accuracy` of views of the
support set.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metanas.data.episodes import Classes
from metanas.errors import EvaluationError
from metanas.evaluation.evaluate import Outcome, mean_of
from metanas.evaluation.journal import Record
from metanas.util.files import write_atomic

FROM_REPORT = {
    "support_accuracy": "accuracy",
    "support_accuracy_soft": "accuracy_soft",
    "support_accuracy_pruned": "accuracy_pruned",
    "logit_gap": "logit_gap",
    "leave_one_out": "leave_one_out",
    "meta_genotype_distance": "meta_genotype_distance",
    "onnx_difference": "onnx_difference",
    "parameters": "parameters",
    "macs": "macs",
    "bytes": "onnx_bytes",
    "steps": "steps",
    "tuning_steps": "tuning_steps",
    "support_digest": "support_digest",
    "genotype": "genotype",
}
"""Name in a record, where `accuracy` is that of the queries -> name in the report."""
ACCURACIES = ("accuracy", "accuracy_pruned", "accuracy_soft", "accuracy_transductive")


@dataclass(frozen=True)
class Stored:
    """An evaluation as it was stored."""

    settings: Mapping[str, Any]
    """What identifies the episodes, the checkpoint, and how it was adapted."""
    episodes: tuple[Record, ...]
    """Those of episodes 0, 1, 2 ..."""

    def column(self, name: str) -> list[float]:
        """A figure of every episode that has it."""
        return [float(row[name]) for row in self.episodes if row.get(name) is not None]


def record_of(index: int, outcome: Outcome) -> Record:
    """The stored result of an episode."""
    report = asdict(outcome.report)
    return {
        "episode": index,
        "accuracy": outcome.accuracy,
        "accuracy_pruned": outcome.pruned,
        "accuracy_soft": outcome.soft,
        "accuracy_transductive": outcome.transductive,
        "query_seconds": round(outcome.query_seconds, 7),
        "worker_seconds": round(sum(outcome.report.seconds.values()), 4),
        **{name: report[entry] for name, entry in FROM_REPORT.items()},
    }


def digest_of(classes: Classes) -> str:
    """SHA-256 of all names and images, for arrays the client's."""
    digest = hashlib.sha256()
    for name, images in classes.items():
        digest.update(f"{name}\0{len(images)}\0".encode())
        for image in images:
            pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
            digest.update(hashlib.sha256(pixels.tobytes()).digest())
    return digest.hexdigest()


def summary_of(records: Sequence[Record]) -> dict[str, Any]:
    """Means over the episodes; of accuracies with half the width of their 95 % intervals."""
    stored = Stored({}, tuple(records))
    found: dict[str, Any] = {"episodes": len(records)}
    for name in ACCURACIES:
        if values := stored.column(name):
            mean = mean_of(values)
            wide = None if len(values) < 2 else mean.interval
            found |= {name: mean.mean, name.replace("accuracy", "interval95"): wide}
    for name in ("parameters", "macs", "bytes"):
        if values := stored.column(name):
            found[name] = mean_of(values).mean
    return found


def write_stored(path: Path, settings: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Write a document; a crash leaves the old one or the new.

    Raises:
        EvaluationError: EVALUATION_UNWRITABLE.
    """
    document = {"settings": settings, "summary": summary_of(records), "episodes": list(records)}
    try:
        write_atomic(path, json.dumps(document, indent=1).encode() + b"\n")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise EvaluationError("EVALUATION_UNWRITABLE", message) from error


def read_stored(path: Path) -> Stored:
    """Read a document of `python -m metanas evaluate` or of the client's `metanas evaluate`.

    Raises:
        EvaluationError: EVALUATION_MISSING, EVALUATION_FORMAT.
    """
    try:
        raw = json.loads(path.read_bytes())
        stored = Stored(dict(raw["settings"]), tuple(dict(row) for row in raw["episodes"]))
        sound = all(0 <= row["accuracy"] <= 1 for row in stored.episodes)
        numbers = [row["episode"] for row in stored.episodes]
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}; name what --out was told"
        raise EvaluationError("EVALUATION_MISSING", message) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} holds no complete evaluation ({error!r}); run the same command again"
        raise EvaluationError("EVALUATION_FORMAT", message) from error
    if not sound or numbers != list(range(len(numbers))):
        message = f"{path} has impossible accuracies or lacks episodes; evaluate again"
        raise EvaluationError("EVALUATION_FORMAT", message)
    return stored
