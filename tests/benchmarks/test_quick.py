"""Every benchmark runs with tiny settings, and its JSON holds what its tables show."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import adapt, export, gpu, memory, query, scaling, server, together, weak_scaling
from benchmarks._goals import goals
from benchmarks._results import Results, Tables, load

IN_PROCESS = (export, query, together)
WITH_PROCESSES = (adapt, memory, scaling, server, weak_scaling)


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
def test_behind_a_trunk_the_textbook_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    check(adapt.main, adapt.tables, out, capsys, "--only", "photos-128-5w1s")
    (row,) = load(out).rows
    assert set(row["seconds"]) == set(row["memory"]) == {"product"}
    assert set(row["work"]) == set(row["time"]) == {"steps"}


@pytest.mark.slow
def test_of_several_kinds_of_tasks_each_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    check(together.main, together.tables, out, capsys, "--only", "mixed")
    assert [len(row["ends"][0]) for row in load(out).rows] == [4, 4]


def test_what_is_measured_on_a_gpu_works_without_one(
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


def test_a_goal_on_a_gpu_is_not_measured_without_one() -> None:
    rows = [{"alone": [0.1, 0.2, 0.3], "many": [1.5]}]
    assert "not measured" in goals([])
    shown = goals([Results("gpu", {}, rows)])
    assert [line.split("|")[-2].strip() for line in shown.splitlines()[-2:]] == ["no", "yes"]
