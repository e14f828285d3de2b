"""The figures of a long run: written to a file, and made into the table of its page."""

from pathlib import Path

import pytest

from benchmarks.harness.machine import facts
from benchmarks.harness.results import load
from benchmarks.reliability import report, tables


def test_a_run_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"acknowledged": 1234, "kills": {"front": 2}, "memory": [1, 2], "failed": {}}
    report(tmp_path / "soak.json", "soak", "make soak", facts(), figures)
    shown = tables(load(tmp_path / "soak.json"))["figures"]
    assert shown in capsys.readouterr().out
    cells = [line.strip("| ").split("|") for line in shown.splitlines()[3:]]
    found = {name.strip(): value.strip() for name, value in cells}
    assert found == {
        "command": "`make soak`",
        "acknowledged": "1,234",
        "kills": "front 2",
        "memory": "1, 2",
        "failed": "none",
    }
