"""Every benchmark runs with tiny settings, and its JSON holds what its tables show."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import adapt, export, memory, query, scaling, server, together, weak_scaling
from benchmarks._results import Tables, load

IN_PROCESS = (export, query, together)
WITH_PROCESSES = (adapt, memory, scaling, server, weak_scaling)


def check(
    main: Callable[[Sequence[str]], None],
    tables: Tables,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--quick", "--out", str(out)])
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
    [pytest.param(topic.main, topic.tables, id=topic.TOPIC) for topic in IN_PROCESS],
)
def test_a_quick_run(
    main: Callable[[Sequence[str]], None],
    tables: Tables,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(main, tables, tmp_path / "results.json", capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "tables"),
    [pytest.param(topic.main, topic.tables, id=topic.TOPIC) for topic in WITH_PROCESSES],
)
def test_a_quick_run_with_processes(
    main: Callable[[Sequence[str]], None],
    tables: Tables,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(main, tables, tmp_path / "results.json", capsys)
