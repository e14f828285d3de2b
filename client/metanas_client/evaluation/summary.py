"""The summary of an evaluation through a server. Needs the extra "onnx"."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metanas_data.evaluations import column, summary_of
from metanas_data.journal import Record


def summarise(records: Sequence[Record], runs: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of the episodes; None for a figure that no episode has.

    runs: the episodes and the seconds of each run of the evaluation.
    """
    seconds = sum(float(run["seconds"]) for run in runs)
    timed = sum(int(run["episodes"]) for run in runs)
    stages = ("support_accuracy_soft", "support_accuracy_pruned")
    both = [record for record in records if None not in [record.get(name) for name in stages]]
    soft, pruned = (column(both, name) for name in stages)
    return {
        **summary_of(records),
        "latency_seconds": percentiles(column(records, "latency")),
        "worker_seconds": percentiles(column(records, "worker_seconds")),
        "episodes_per_second": timed / seconds if seconds > 0 else None,
        "onnx_difference_max": max(column(records, "onnx_difference"), default=None),
        "support": {
            "accuracy": _mean(column(records, "support_accuracy")),
            "accuracy_soft": _mean(soft),
            "accuracy_pruned": _mean(pruned),
            "accuracy_gap": _mean([a - b for a, b in zip(soft, pruned, strict=True)]),
            **{
                name: _mean(column(records, name))
                for name in ("logit_gap", "leave_one_out", "meta_genotype_distance")
            },
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return the mean, and the 50th, 95th and 99th percentile."""
    if not values:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return {"mean": float(np.mean(values)), "p50": p50, "p95": p95, "p99": p99}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
