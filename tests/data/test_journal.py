"""The journal of an evaluation survives interruptions, and has one writer."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metanas_data.errors import EvaluationError
from metanas_data.journal import Journal

SETTINGS = {"ways": 5, "seed": 0, "options": {"steps": 3}, "classes": ("a", "b")}
ROWS = [{"episode": index, "accuracy": 0.25, "classes": ["a", "ü"]} for index in range(3)]
WRITER = """
import sys
from pathlib import Path
from metanas_data.journal import Journal

with Journal(Path(sys.argv[1]), {"seed": 0}) as journal:
    journal.add({"episode": 0, "accuracy": 0.5})
    print("writes", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writer(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that holds the journal at `path` until the block ends."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writes\n"
        yield process
        process.kill()


def test_episodes_and_runs_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add({"episode": 4, "accuracy": 0.5})
        journal.add_run(1, 2.0)
    with Journal(path, SETTINGS) as journal:
        assert journal.episodes == {4: {"episode": 4, "accuracy": 0.5}}
        assert journal.runs == [{"episodes": 1, "seconds": 2.0}]
        assert journal.missing(6) == [0, 1, 2, 3, 5]
        journal.add({"episode": 5, "accuracy": 1.0})
    with Journal(path, SETTINGS) as journal:
        assert list(journal.episodes) == [4, 5]


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS) as journal:
        for row in ROWS:
            journal.add(row)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path, SETTINGS) as journal:
            finished = max(0, whole[:cut].count(b"\n") - 1)
            assert journal.missing(3) == [0, 1, 2][finished:]
            for index in journal.missing(3):
                journal.add(ROWS[index])
        assert path.read_bytes() == whole


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS):
        pass
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match=r"ways: 5 there, 20 now.*another --out") as caught:
        Journal(path, {**SETTINGS, "ways": 20})
    assert caught.value.reason == "EVALUATION_SETTINGS"
    assert "seed" not in str(caught.value)
    assert path.read_bytes() == before
    with Journal(path, {**SETTINGS, "ways": 20}, restart=True) as journal:
        assert journal.episodes == {}


@pytest.mark.parametrize(
    "text",
    [
        "my notes",
        "my\nnotes\n",
        '{"settings": {}}\n{"accuracy": 1}\n',
        '{"settings": {}}\n[]\n',
        '{"settings": {}}\n\n',
        "[]\n",
    ],
)
def test_another_file_stays_unchanged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(text)
    with pytest.raises(EvaluationError, match="no journal") as caught:
        Journal(path, {})
    assert caught.value.reason == "EVALUATION_FORMAT"
    assert path.read_text() == text


@pytest.mark.parametrize("restart", [False, True])
def test_two_processes_cannot_write_one_journal(tmp_path: Path, restart: bool) -> None:
    path = tmp_path / "j.jsonl"
    with writer(path):
        before = path.read_bytes()
        with pytest.raises(EvaluationError, match="wait for its end, or name another --out") as e:
            Journal(path, {"seed": 0}, restart=restart)
        assert e.value.reason == "EVALUATION_BUSY"
        assert path.read_bytes() == before
    with Journal(path, {"seed": 0}) as journal:  # the writer was killed
        assert list(journal.episodes) == [0]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nowhere") as caught:
        Journal(tmp_path / "nowhere" / "j.jsonl", SETTINGS)
    assert caught.value.reason == "EVALUATION_UNWRITABLE"


@pytest.fixture
def full_disk() -> Iterator[Callable[[int], None]]:
    """Limit the size of files to a number of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_one_episode(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add(ROWS[0])
        full_disk(path.stat().st_size + 10)
        with pytest.raises(EvaluationError) as caught:
            journal.add(ROWS[1])
        assert caught.value.reason == "EVALUATION_UNWRITABLE"
        full_disk(10**6)
        journal.add(ROWS[2])  # as another episode does that is under way
    with Journal(path, SETTINGS) as journal:
        assert journal.missing(3) == [1]
