"""Result files of evaluations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from metanas_data.errors import EvaluationError
from metanas_data.evaluations import StoredEvaluation, read_evaluation, summary_of, write_evaluation

ROWS: list[Mapping[str, Any]] = [
    {"episode": 0, "accuracy": 0.5, "macs": 10},
    {"episode": 1, "accuracy": 1.0, "macs": None},
]


def test_an_evaluation_is_read_again(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a.json", {"seed": 0}, ROWS)
    assert read_evaluation(tmp_path / "a.json") == StoredEvaluation({"seed": 0}, ROWS)


def test_the_summary_has_means_and_intervals() -> None:
    summary = summary_of(ROWS)
    assert summary == {
        "episodes": 2,
        "accuracy": 0.75,
        "interval95": pytest.approx(3.1765512),
        "macs": 10,
    }
    assert summary_of(ROWS[:1])["interval95"] is None
    assert summary_of([]) == {"episodes": 0}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere") as caught:
        write_evaluation(tmp_path / "nowhere" / "a.json", {}, ROWS)
    assert caught.value.reason == "EVALUATION_UNWRITABLE"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "EVALUATION_MISSING"),
        ("", "EVALUATION_FORMAT"),
        ('{"settings": {}, "episodes": [{"epi', "EVALUATION_FORMAT"),
        ("[1, 2]", "EVALUATION_FORMAT"),
        ('{"settings": {}, "episodes": [{"episode": 0}]}', "EVALUATION_FORMAT"),
        ('{"settings": {}, "episodes": [{"episode": 1, "accuracy": 1}]}', "EVALUATION_FORMAT"),
        ('{"settings": {}, "episodes": [{"episode": 0, "accuracy": 97}]}', "EVALUATION_FORMAT"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EvaluationError) as error:
        read_evaluation(path)
    assert error.value.reason == reason
    assert str(path) in str(error.value)
