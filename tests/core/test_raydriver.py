"""A Ray cluster of a run's own: how it starts, what ends it, and that nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metanas.errors import ClusterError
from metanas.training.ray_pool import Workers, cluster
from tests.core.running import state
from tests.core.test_survival import CONFIG

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MARK = "METANAS_TEST_MARK"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """In the environment of all that this test starts, however far from it."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    monkeypatch.setenv("SPT_NOENV", "1")  # or Ray's workers write their titles over it
    return value


def marked(mark: str) -> set[int]:
    """Processes that live and have the mark."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found


def wait_for_the_end(mark: str) -> None:
    """Until none of them lives; the test's limit ends it otherwise."""
    while marked(mark):
        time.sleep(0.05)


@pytest.fixture
def victim(mark: str, data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long run with two workers, in a cluster of its own, after its first iterations."""
    text = CONFIG.format(path=data).replace("iterations = 80", "iterations = 4000")
    (tmp_path / "run.toml").write_text(text)
    command = [sys.executable, "-m", "metanas", "train", str(tmp_path / "run.toml")]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "run"), "--workers", "2", "--set", "train.tasks=2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        while not (tmp_path / "run" / "log.jsonl").exists():
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        assert len(marked(mark)) > 5  # the run, its driver, Ray's two and two workers
        yield child
        child.kill()


def test_it_goes_down_with_the_run(
    victim: subprocess.Popen[str], mark: str, tmp_path: Path
) -> None:
    victim.send_signal(signal.SIGTERM)
    _, error = victim.communicate()
    assert victim.returncode == 128 + signal.SIGTERM, error
    assert "--resume" in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= 1
    wait_for_the_end(mark)


def test_it_does_not_outlive_a_run_that_is_killed(victim: subprocess.Popen[str], mark: str) -> None:
    victim.kill()
    victim.wait()
    wait_for_the_end(mark)


def driver(mark: str) -> int:
    """The process in which a run's Ray lives."""
    commands = {}
    for each in marked(mark):
        with suppress(OSError):  # it has ended meanwhile
            commands[each] = Path(f"/proc/{each}/cmdline").read_bytes()
    name = b"metanas.training.ray_driver"
    (found,) = (each for each, command in commands.items() if name in command)
    return found


def logged(folder: Path) -> int:
    """The last iteration of which the log tells."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["iteration"])


def test_a_run_that_loses_it_keeps_what_came_before(
    victim: subprocess.Popen[str], mark: str, tmp_path: Path
) -> None:
    os.kill(driver(mark), signal.SIGKILL)
    _, error = victim.communicate(timeout=50)  # Ray itself would end the process after 60 s
    assert victim.returncode == 2
    assert error.strip().endswith("[CLUSTER_LOST]")
    assert "--resume" in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= logged(tmp_path / "run") >= 1
    wait_for_the_end(mark)


def test_a_run_and_all_that_it_started_are_asked_to_end(
    victim: subprocess.Popen[str], mark: str, tmp_path: Path
) -> None:
    """As a service's manager does."""
    for each in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGTERM)
    _, error = victim.communicate(timeout=50)
    assert victim.returncode == 128 + signal.SIGTERM, error
    assert "--resume" in error
    assert "Traceback" not in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= logged(tmp_path / "run") >= 1
    wait_for_the_end(mark)


def test_it_does_not_start(monkeypatch: pytest.MonkeyPatch, mark: str, tmp_path: Path) -> None:
    """In a folder whose sockets would have names longer than Linux allows."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(ClusterError) as caught, cluster(Workers(workers=1), 5):
        pytest.fail("there is no cluster")
    assert caught.value.reason == "CLUSTER_NOT_STARTED"
    assert "107" in str(caught.value)
    wait_for_the_end(mark)


def test_it_takes_too_long(mark: str) -> None:
    with (
        pytest.raises(ClusterError, match=r"within 0\.5 s") as caught,
        cluster(Workers(workers=1, patience=0.5), 5),
    ):
        pytest.fail("Ray takes seconds to start")
    assert caught.value.reason == "CLUSTER_NOT_STARTED"
    wait_for_the_end(mark)
