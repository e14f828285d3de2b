"""Two evaluations become a row and a table; other pairs are refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.results import Results, load
from metanas.spec.options import AdaptConfig
from studies import accuracy
from tests.studies import evaluated

MANY = [0.9, 0.8, 1.0, 0.8]


def evaluation(path: Path, accuracies: Sequence[float], steps: int, **changes: Any) -> str:
    """Write an evaluation of this number of steps; return its path."""
    options = AdaptConfig(steps=steps, tuning_steps=3).to_dict()
    return evaluated.evaluation(path, accuracies, options, **changes)


def compared(folder: Path, few: Sequence[float]) -> Results:
    """Store these accuracies beside those of 100 steps."""
    out = folder / "box" / "accuracy.json"
    files = [evaluation(folder / "a", few, 5), evaluation(folder / "b", MANY, 100)]
    assert accuracy.main([*files, "--out", str(out)]) == 0
    return load(out)


def test_the_accuracies_of_each_episode_are_stored_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [1.0, 0.8, 1.0, 1.0, 0.2]
    results = compared(tmp_path, few)
    (row,) = results.rows
    assert row["accuracy"] == [few[:4], MANY], "of the episodes that both have"
    shown = accuracy.tables(results)["accuracy"]
    assert shown in capsys.readouterr().out
    ours, theirs = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in shown.splitlines()[2:]
    )
    assert ours[:3] == ["omniglot, 5-way 1-shot, 5 + 3 steps", "4", "95.00 ± 15.91"]
    assert theirs[0] == "omniglot, 5-way 1-shot, 100 + 3 steps"
    assert theirs[3:] == ["+7.50 ± 15.23", "2/0/2", "inconclusive"]


def test_other_episodes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [evaluation(tmp_path / "a", MANY, 5), evaluation(tmp_path / "b", MANY, 100, seed=1)]
    assert accuracy.main([*files, "--out", str(tmp_path / "out")]) == 2
    assert "[EPISODES_DIFFER]" in capsys.readouterr().err
    files[1] = evaluation(tmp_path / "b", MANY, 100, checkpoint_digest="other")
    with pytest.raises(SystemExit):
        accuracy.main([*files, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
