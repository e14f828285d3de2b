"""What an evaluation has found, in numbers. Needs the extra "onnx"."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metanas_data.intervals import half_width95

Row = Mapping[str, Any]


def summarise(episodes: Mapping[int, Row], runs: Sequence[Row], count: int) -> dict[str, Any]:
    """The figures of the first `count` episodes; None where nothing was measured."""
    rows = [episodes[index] for index in sorted(episodes) if index < count]
    accuracy = _column(rows, "accuracy")
    seconds = sum(float(run["seconds"]) for run in runs)
    timed = sum(int(run["episodes"]) for run in runs)
    soft, pruned = _paired(rows, "support_accuracy_soft", "support_accuracy_pruned")
    return {
        "episodes": len(rows),
        "accuracy": _mean(accuracy),
        "interval95": half_width95(accuracy),
        "latency_seconds": percentiles(_column(rows, "latency")),
        "worker_seconds": percentiles(_column(rows, "worker_seconds")),
        "episodes_per_second": timed / seconds if seconds > 0 else None,
        "model_bytes": _mean(_column(rows, "bytes")),
        "parameters": _mean(_column(rows, "parameters")),
        "macs": _mean(_column(rows, "macs")),
        "onnx_difference_max": max(_column(rows, "onnx_difference"), default=None),
        "support": {
            "accuracy": _mean(_column(rows, "support_accuracy")),
            "accuracy_soft": _mean(soft),
            "accuracy_pruned": _mean(pruned),
            "accuracy_gap": _mean([a - b for a, b in zip(soft, pruned, strict=True)]),
            "logit_gap": _mean(_column(rows, "logit_gap")),
            "leave_one_out": _mean(_column(rows, "leave_one_out")),
            "meta_genotype_distance": _mean(_column(rows, "meta_genotype_distance")),
        },
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """The mean, and the 50th, 95th and 99th percentile."""
    if not values:
        return None
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return {"mean": float(np.mean(values)), "p50": p50, "p95": p95, "p99": p99}


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name) is not None]


def _paired(rows: Sequence[Row], one: str, other: str) -> tuple[list[float], list[float]]:
    both = [row for row in rows if row.get(one) is not None and row.get(other) is not None]
    return _column(both, one), _column(both, other)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
