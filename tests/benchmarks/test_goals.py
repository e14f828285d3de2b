"""Stored results are compared with the goals."""

import pytest

from benchmarks.goals import goals
from benchmarks.harness.results import Results, Row


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def lines_of(topic: str, rows: list[Row]) -> dict[str, list[str]]:
    """Return the rows of the table by their titles, each after the title before it."""
    lines = [cells(line) for line in goals([Results(topic, {}, rows)]).splitlines()[2:]]
    return {
        f"{before[0]} {line[0]}": line[1:]
        for before, line in zip([[""], *lines], lines, strict=False)
    }


def test_the_best_result_counts() -> None:
    def whole(threads: int, seconds: float) -> Row:
        times = {"product": {"whole": [seconds] * 3}}
        return {"case": "shipped-28-5w1s", "threads": threads, "seconds": times}

    slow, fast = whole(1, 1.5), whole(2, 0.5)
    for rows, measured, reached in (([slow], "1.50 s", "no"), ([slow, fast], "0.50 s", "yes")):
        first, second, *_ = lines_of("adapt", rows).values()
        assert first == ["≤ 1 s", measured, "3", reached]
        assert second == ["≤ 2 s", "not measured", "", ""]


@pytest.mark.parametrize(
    ("times", "shown", "reached"),
    [
        ([4.4, 4.5, 4.6], "4.50 times (4.40 to 4.60)", "yes"),
        ([3.5, 4.1, 4.9], "4.10 times (3.50 to 4.90)", "unclear"),
        ([3.1, 3.2, 3.3], "3.20 times (3.10 to 3.30)", "no"),
    ],
)
def test_a_goal_within_an_interval_is_unclear(times: list[float], shown: str, reached: str) -> None:
    seconds = {"textbook": {"adapt": times}, "product": {"adapt": [1.0] * 3, "whole": [2.0]}}
    memory = {"product": {"peak": 2e9}}
    rows = [{"case": "paper-28-5w1s", "threads": 1, "seconds": seconds, "memory": memory}]
    (line,) = [
        each for name, each in lines_of("adapt", rows).items() if name.endswith("textbook, 28×28")
    ]
    assert line[1:] == [shown, "3", reached]


def test_clients_are_compared_with_one_and_as_many_workers() -> None:
    def load(workers: int, clients: int, whole: float) -> Row:
        case = {"case": "shipped-28-5w1s", "workers": workers, "clients": clients}
        return {**case, "latencies": [1.0] * 16, "whole": whole}

    rows = [load(1, 1, 8.0), load(1, 16, 6.4), load(2, 1, 16.0), load(2, 16, 4.0)]
    measured = [line[1] for line in lines_of("server", rows).values() if "times" in line[1]]
    assert measured == ["1.25 times", "4.00 times"]


def test_growth_is_counted_from_the_first_fifty_adaptations() -> None:
    rows = [
        {"threads": 1, "adaptations": count, "workers": mebibytes * 2**20, "front": 2**26}
        for count, mebibytes in ((0, 100), (50, 300), (500, 303))
    ]
    measured = [line[1:3] for line in lines_of("memory", rows).values() if "MiB" in line[1]]
    assert measured == [["3.00 MiB", "500"], ["64.0 MiB", "500"]]


def test_a_goal_on_a_gpu_is_not_measured_without_one() -> None:
    assert "not measured" in goals([])
    lines = list(lines_of("gpu", [{"alone": [0.1, 0.2, 0.3], "many": [1.5]}]).values())
    assert [line[-1] for line in lines[-2:]] == ["no", "yes"]
