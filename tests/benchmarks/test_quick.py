"""Every benchmark runs with tiny settings, and its JSON holds the figures of its tables."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import (
    adapt,
    export,
    gpu,
    inference,
    memory,
    overload,
    query,
    scaling,
    server,
    together,
    weak_scaling,
    worst_memory,
)
from benchmarks.harness.results import Results, Row, Tables, load

IN_PROCESS = (export, query, together)
WITH_PROCESSES = (adapt, inference, memory, scaling, server, weak_scaling, worst_memory)


def check(
    main: Callable[[Sequence[str]], None],
    tables: Tables,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    *more: str,
) -> None:
    main(["--quick", "--out", str(out), *more])
    printed = capsys.readouterr().out
    results = load(out)
    assert results.machine["quick"] is True
    shown = tables(results)
    assert shown
    for text in shown.values():
        assert len(text.splitlines()) > 2, "a table has rows"
        assert text in printed


@pytest.mark.parametrize(
    ("main", "tables"),
    [
        *(pytest.param(topic.main, topic.tables, id=topic.TOPIC) for topic in IN_PROCESS),
        *(
            pytest.param(topic.main, topic.tables, id=topic.TOPIC, marks=pytest.mark.slow)
            for topic in WITH_PROCESSES
        ),
    ],
)
def test_a_quick_run(
    main: Callable[[Sequence[str]], None],
    tables: Tables,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(main, tables, tmp_path / "results.json", capsys)


@pytest.mark.slow
def test_a_trunk_leaves_the_textbook_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    check(adapt.main, adapt.tables, out, capsys, "--only", "photos-224-5w1s")
    (row,) = load(out).rows
    assert set(row["seconds"]) == set(row["memory"]) == {"product"}
    assert set(row["work"]) == {"steps"}


@pytest.mark.slow
def test_of_several_kinds_of_tasks_each_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    check(together.main, together.tables, out, capsys, "--only", "mixed")
    assert [len(row["ends"][0]) for row in load(out).rows] == [4, 4]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a start of Ray may take minutes
def test_overload_counts_its_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    check(overload.main, overload.tables, out, capsys)
    cases: dict[str, list[Row]] = {}
    for row in load(out).rows:
        cases.setdefault(row["case"], []).append(row)
    attacks = {row["attack"]: row for row in cases["health"]}
    assert set(attacks) == {"none", "dimensions", "tensors", "idle", "others", "quota"}
    assert attacks["idle"]["connections"] == 5
    assert sum(attacks["quota"]["reasons"].values()) == 10 * overload.TINY["quota"]
    assert len(attacks["quota"]["whole"]) >= overload.TINY["others"]
    assert [row["jobs"] for row in cases["watchers"]] == [overload.TINY["jobs"], 1]
    assert all(row["messages"] for row in cases["watchers"])
    (refusals,) = cases["refusals"]
    refused = sum(refusals["reasons"].values())
    assert refused + refusals["accepted"] == 10 * refusals["queue"]
    assert len(refusals["seconds"]) == refusals["retry"] == refused
    assert [row["place"] for row in cases["throughput"]] == ["processes", "ray"]


def test_adaptations_are_counted_by_their_ends() -> None:
    """Several kinds of tasks one after the other are more tasks than jobs together."""
    rows = [
        {"title": "mixed", "threads": 1, "jobs": jobs, "ends": [ends]}
        for jobs, ends in ((1, [1.0, 2.0, 3.0, 4.0]), (8, [1.0] * 4 + [4.0] * 4))
    ]
    lines = together.tables(Results("together", {}, rows))["together"].splitlines()
    rates = [[cell.strip() for cell in line.split("|")][5:7] for line in lines[2:]]
    assert rates == [["1.00", "1.00"], ["2.00", "2.00"]]


def test_the_measurement_on_a_gpu_works_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    check(gpu.main, gpu.tables, out, capsys, "--device", "cpu")
    (row,) = load(out).rows
    assert row["alone"]
    assert row["many"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path / "results.json")])
    assert ended.value.code == "unmeasured: torch finds no CUDA device"  # an exit code of 1
    assert not list(tmp_path.iterdir())
