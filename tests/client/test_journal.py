"""The journal of an evaluation survives interruptions and refuses other settings."""

from pathlib import Path

import pytest

from metanas_client import JournalMismatch, NotWritable
from metanas_client.evaluation.journal import Journal, read
from metanas_client.evaluation.summary import summarise

SETTINGS = {"ways": 5, "seed": 0, "options": {"steps": 3}, "classes": ("a", "b")}


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add_episode(4, {"accuracy": 0.5})
        journal.add_run(1, 2.0)
    with Journal(path, SETTINGS) as journal:
        assert journal.episodes == {4: {"accuracy": 0.5}}
        assert journal.runs == [{"episodes": 1, "seconds": 2.0}]
        journal.add_episode(5, {"accuracy": 1.0})
    found = read(path)
    assert found is not None
    assert set(found.episodes) == {4, 5}


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_was_cut_off_is_forgotten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS) as journal:
        for index in range(3):
            journal.add_episode(index, {"accuracy": 0.25, "classes": ["a", "ü"]})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, SETTINGS) as journal:
        missing = [index for index in range(3) if index not in journal.episodes]
        for index in missing:
            journal.add_episode(index, {"accuracy": 0.25, "classes": ["a", "ü"]})
    assert missing == list(range(3))[3 - 1 - whole[-cut:-1].count(b"\n") :]
    assert path.read_bytes() == whole


def test_a_journal_that_was_cut_off_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text('{"settings": {"wa')
    with Journal(path, SETTINGS) as journal:
        assert journal.episodes == {}
    assert read(path) is not None


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    Journal(path, SETTINGS).__exit__(None, None, None)
    before = path.read_bytes()
    with pytest.raises(JournalMismatch) as caught:
        Journal(path, {**SETTINGS, "ways": 20})
    assert caught.value.reason == "SETTINGS_DIFFER"
    assert "ways: 5 there, 20 now" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert path.read_bytes() == before


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text("a letter\nto somebody\n")
    with pytest.raises(JournalMismatch):
        Journal(path, SETTINGS)
    assert path.read_text() == "a letter\nto somebody\n"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotWritable):
        Journal(tmp_path / "missing" / "j.jsonl", SETTINGS)


def test_the_summary_takes_the_episodes_that_were_asked_for() -> None:
    rows = {
        index: {
            "accuracy": float(index == 0),
            "latency": 1.0 + index,
            "bytes": 1000,
            "support_accuracy_soft": 1.0,
            "support_accuracy_pruned": 0.75,
            "leave_one_out": None,
        }
        for index in range(3)
    }
    found = summarise(rows, [{"episodes": 3, "seconds": 1.5}], 2)
    assert (found["episodes"], found["accuracy"]) == (2, 0.5)
    assert found["latency_seconds"]["p50"] == 1.5
    assert found["episodes_per_second"] == 2.0
    assert found["support"]["accuracy_gap"] == 0.25
    assert found["support"]["leave_one_out"] is None


def test_nothing_measured_is_no_error() -> None:
    found = summarise({}, [], 5)
    assert found["accuracy"] is None
    assert found["latency_seconds"] is None
