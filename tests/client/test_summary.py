"""The summary of an evaluation through a server."""

from metanas_client.evaluation import summarise


def test_the_summary_has_latencies_throughput_and_gaps() -> None:
    rows = [
        {
            "accuracy": float(index == 0),
            "latency": 1.0 + index,
            "support_accuracy_soft": 1.0,
            "support_accuracy_pruned": 0.75,
            "leave_one_out": None,
        }
        for index in range(2)
    ]
    summary = summarise([*rows, {**rows[0], "support_accuracy_pruned": None}], [])
    assert summary["support"]["accuracy_gap"] == 0.25  # of the episodes that have both
    summary = summarise(rows, [{"episodes": 3, "seconds": 1.5}])
    assert (summary["episodes"], summary["accuracy"]) == (2, 0.5)
    assert summary["latency_seconds"]["p50"] == 1.5
    assert summary["episodes_per_second"] == 2.0
    assert summary["support"]["leave_one_out"] is None


def test_no_episode_is_no_error() -> None:
    assert summarise([], [])["latency_seconds"] is None
