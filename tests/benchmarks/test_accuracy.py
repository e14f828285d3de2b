"""Two evaluations become a row, a table and a goal; what is no pair is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy, page
from benchmarks._goals import goals
from benchmarks._results import Results, load
from metanas.spec.options import AdaptConfig
from tests.benchmarks import evaluated

MANY = [0.9, 0.8, 1.0, 0.8]


def evaluation(path: Path, accuracies: Sequence[float], steps: int, **changes: Any) -> str:
    """Of so many steps; returns its path."""
    options = AdaptConfig(steps=steps, tuning_steps=3).to_dict()
    return evaluated.evaluation(path, accuracies, options, **changes)


def compared(folder: Path, few: Sequence[float]) -> Results:
    """What is stored of these accuracies and those of 100 steps."""
    out = folder / "box" / "accuracy.json"
    files = [evaluation(folder / "a", few, 5), evaluation(folder / "b", MANY, 100)]
    assert accuracy.main([*files, "--out", str(out)]) == 0
    return load(out)


def test_the_accuracies_of_each_episode_are_kept_and_compared(
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
    block = "<!-- box/accuracy accuracy -->\n<!-- / -->"
    assert shown in page.filled(block, tmp_path / "box" / "accuracy.json")


@pytest.mark.parametrize(
    ("few", "reached"),
    [
        ([1.0, 0.9, 1.0, 0.9], "yes"),
        ([0.8, 0.9, 1.0, 0.7], "yes"),  # lower, but not by more than its interval
        ([0.5, 0.4, 0.6, 0.4], "no"),
    ],
)
def test_the_goal_is_not_to_be_lower(tmp_path: Path, few: list[float], reached: str) -> None:
    (line,) = [each for each in goals([compared(tmp_path, few)]).splitlines() if "100" in each]
    assert line.split("|")[-2].strip() == reached


def test_other_episodes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [evaluation(tmp_path / "a", MANY, 5), evaluation(tmp_path / "b", MANY, 100, seed=1)]
    assert accuracy.main([*files, "--out", str(tmp_path / "out")]) == 2
    assert "[EPISODES_DIFFER]" in capsys.readouterr().err
    files[1] = evaluation(tmp_path / "b", MANY, 100, checkpoint_digest="other")
    with pytest.raises(SystemExit):
        accuracy.main([*files, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
