"""Evaluations on disk, one JSON file each: settings, summary, and one record for each episode.

In a record, `accuracy` is that of the exported file on the queries. `support_accuracy` is that on
views of the support set.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metanas_data.errors import EvaluationError
from metanas_data.files import write_atomic
from metanas_data.intervals import mean_of
from metanas_data.journal import Record
from metanas_data.report import Report

FROM_REPORT = {
    "support_accuracy": "accuracy",
    "support_accuracy_soft": "accuracy_soft",
    "support_accuracy_pruned": "accuracy_pruned",
    "logit_gap": "logit_gap",
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
"""Name in a record -> name in the report of an adaptation."""
ACCURACIES = ("accuracy", "accuracy_pruned", "accuracy_soft", "accuracy_transductive")


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation as it is on disk."""

    settings: Mapping[str, Any]
    """Identity of the episodes and of the checkpoint, and the options of the adaptation."""
    episodes: Sequence[Record]
    """The records of the episodes 0, 1, 2 ..."""

    def column(self, name: str) -> list[float]:
        """Return a figure of all episodes that have it."""
        return column(self.episodes, name)


def column(records: Sequence[Record], name: str) -> list[float]:
    """Return a figure of all records that have it."""
    return [float(record[name]) for record in records if record.get(name) is not None]


def figures_of(report: Report) -> dict[str, Any]:
    """Return the figures of a record that come from the report of an adaptation."""
    estimate = report.leave_one_out
    return {
        "worker_seconds": round(sum(report.seconds.values()), 4) if report.seconds else None,
        "leave_one_out": None if estimate is None else estimate.accuracy,
        **{name: getattr(report, entry) for name, entry in FROM_REPORT.items()},
    }


def summary_of(records: Sequence[Record]) -> dict[str, Any]:
    """Return means over the episodes, and for accuracies half the width of the 95 % interval.

    A figure that no record has is left out. An interval needs two episodes, else it is None.
    """
    summary: dict[str, Any] = {"episodes": len(records)}
    for name in ACCURACIES:
        if values := column(records, name):
            mean = mean_of(values)
            half = mean.interval if len(values) > 1 else None
            summary |= {name: mean.mean, name.replace("accuracy", "interval95"): half}
    for name in ("parameters", "macs", "bytes"):
        if values := column(records, name):
            summary[name] = mean_of(values).mean
    return summary


def write_evaluation(
    path: Path,
    settings: Mapping[str, Any],
    records: Sequence[Record],
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Write an evaluation atomically. The summary is `summary_of` the records by default.

    Raises:
        EvaluationError: EVALUATION_UNWRITABLE.
    """
    summary = summary_of(records) if summary is None else summary
    document = {"settings": settings, "summary": summary, "episodes": list(records)}
    try:
        write_atomic(path, json.dumps(document, indent=1).encode() + b"\n")
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise EvaluationError("EVALUATION_UNWRITABLE", message) from error


def read_evaluation(path: Path) -> StoredEvaluation:
    """Read what the `evaluate --out` of the core or of the client wrote.

    Raises:
        EvaluationError: EVALUATION_MISSING, EVALUATION_FORMAT.
    """
    try:
        raw = json.loads(path.read_bytes())
        stored = StoredEvaluation(dict(raw["settings"]), [dict(row) for row in raw["episodes"]])
        in_range = all(0 <= row["accuracy"] <= 1 for row in stored.episodes)
        numbers = [row["episode"] for row in stored.episodes]
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}; name a file of evaluate --out"
        raise EvaluationError("EVALUATION_MISSING", message) from error
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} holds no complete evaluation ({error!r}); run the evaluation again"
        raise EvaluationError("EVALUATION_FORMAT", message) from error
    if not in_range or numbers != list(range(len(numbers))):
        message = f"{path} has accuracies outside 0 to 1 or lacks episodes; run the evaluation "
        raise EvaluationError("EVALUATION_FORMAT", f"{message}again")
    return stored
