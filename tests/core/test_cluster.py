"""Meta-training over a Ray cluster of two nodes on this host, and what can happen to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas.alphas import is_alpha
from metanas.cluster import ATTEMPTS, Batch, Workers, cluster
from metanas.config import DataConfig, RunConfig
from metanas.episodes import Classes, Features
from metanas.errors import ClusterError, Diverged, InvalidInput, MetanasError, UnknownName
from metanas.extensions import Extensions, Learn
from metanas.metabatch import MetaState, TaskResults, total
from metanas.raydriver import split
from metanas.rundata import classes_of
from metanas.runs import run
from metanas.train import MetaTrainer, Progress
from metanas.wishes import Wishes
from tests.core.running import assert_same_run, ignore, state
from tests.core.small import run_config
from tests.core.test_survival import CONFIG as TOML

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TASKS = 5
CONFIG = run_config(tasks=TASKS, iterations=4, validate_every=2, settle=3, snapshot_every=99)


NODES = """
import sys
from ray.cluster_utils import Cluster
# without these a node has fewer processes to start
few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
nodes = Cluster()
for cpus in sys.argv[1].split():
    nodes.add_node(num_cpus=int(cpus), **few)
print(nodes.address, flush=True)
sys.stdin.read()
nodes.shutdown()
"""


@contextmanager
def nodes(cpus: str) -> Iterator[str]:
    """The address of a cluster with a node for each number of CPUs."""
    with subprocess.Popen(
        [sys.executable, "-c", NODES, cpus],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield child.stdout.readline().strip()
        child.stdin.close()
        child.wait()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a cluster of two nodes, neither of which has room for all, is to be joined."""
    for _ in range(ATTEMPTS - 1):
        with nodes("2 3") as address:  # Ray gives a node 30 seconds, and us an empty line if late
            if address:
                yield address
                return
    with nodes("2 3") as address:
        assert address
        yield address


@pytest.fixture(scope="module")
def config(data: Path) -> RunConfig:
    """A run whose data lie in a file."""
    return replace(CONFIG, data=DataConfig(path=str(data), licence="none"))


@pytest.fixture(scope="module")
def train(config: RunConfig) -> Classes | Features:
    return classes_of(config)[0]


@pytest.fixture(scope="module")
def three(address: str, config: RunConfig, train: Classes | Features) -> Iterator[Learn]:
    """Three workers for most of the tests; a worker takes seconds to start."""
    with cluster(Workers(count=3, address=address, patience=250), TASKS) as learner:
        yield learner(config, train)


@dataclass(frozen=True)
class Deadly:
    """Makes batches whose process is killed in the second iteration, so many times in all."""

    marks: Path
    times: int

    def __call__(self, config: RunConfig, train: Classes | Features, device: str) -> Learn:
        batch = Extensions().batch(config, train, device)

        def learn(state: MetaState, tasks: range) -> TaskResults:
            if state.iteration == 1 and 0 in tasks and len(list(self.marks.iterdir())) < self.times:
                (self.marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return batch(state, tasks)

        return learn


@contextmanager
def team(
    address: str,
    config: RunConfig,
    train: Classes | Features,
    batch: Batch | None = None,
    **options: Any,
) -> Iterator[Learn]:
    """Further workers, in the cluster of the three."""
    workers = Workers(**{"count": 1, "address": address, "patience": 250, **options})
    with cluster(workers, TASKS, batch) as learner:
        yield learner(config, train)


def in_parts(config: RunConfig, train: Classes | Features, count: int) -> Learn:
    """What workers do, in this process."""
    batch = Extensions().batch(config, train)
    return lambda state, tasks: total(batch(state, part) for part in split(tasks, count))


def train_with(learn: Learn, config: RunConfig, folder: Path, **options: Any) -> None:
    options = {"resume": False, "on_progress": ignore, **options}
    run(config, folder, learner=lambda config, train: learn, **options)


def assert_close(one: Path, other: Path) -> None:
    for name, value in state(one)[1].items():
        torch.testing.assert_close(value, state(other)[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("tasks", "count"), [(1, 1), (5, 2), (5, 3), (7, 7), (64, 5)])
def test_parts_are_a_whole_and_alike(tasks: int, count: int) -> None:
    parts = split(range(tasks), count)
    assert [number for part in parts for number in part] == list(range(tasks))
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_number_of_workers_changes_roundings_only(
    address: str, three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    one, alone, many, parts = (tmp_path / name for name in ("one", "alone", "many", "parts"))
    with team(address, config, train) as single:
        train_with(single, config, one)
    train_with(in_parts(config, train, 1), config, alone)
    assert_same_run(one, alone)
    train_with(three, config, many)
    train_with(in_parts(config, train, 3), config, parts)
    assert_same_run(many, parts)
    assert_close(many, alone)


def test_a_worker_that_dies_is_replaced_and_changes_nothing(
    address: str, three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    marks, hit, whole = (tmp_path / name for name in ("marks", "hit", "whole"))
    marks.mkdir()
    with team(address, config, train, Deadly(marks, 1), count=2) as mortal:
        train_with(mortal, config, hit)
    assert len(list(marks.iterdir())) == 1, "a process was killed"
    train_with(in_parts(config, train, 2), config, whole)
    assert_same_run(hit, whole)


def test_workers_that_keep_dying_end_the_run_which_others_resume(
    address: str, three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    marks, folder, alone = (tmp_path / name for name in ("marks", "run", "alone"))
    marks.mkdir()
    with (
        team(address, config, train, Deadly(marks, 99), replacements=1) as doomed,
        pytest.raises(ClusterError) as caught,
    ):
        train_with(doomed, config, folder)
    assert caught.value.reason == "WORKERS_DIED"
    assert len(list(marks.iterdir())) == 2
    assert state(folder)[0]["iteration"] == 1, "nothing that was done is lost"
    train_with(three, config, folder, resume=True)
    train_with(in_parts(config, train, 1), config, alone)
    assert_close(folder, alone)


def test_resumed_with_as_many_workers_it_is_the_same_bits(
    three: Learn, config: RunConfig, tmp_path: Path
) -> None:
    wishes = Wishes()

    def stop(seen: Progress) -> None:
        wishes.stop = signal.SIGTERM if seen.iteration == 2 else None

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_with(three, config, whole)
    train_with(three, config, broken, on_progress=stop, wishes=wishes)
    assert state(broken)[0]["iteration"] == 2
    train_with(three, config, broken, resume=True)
    assert_same_run(whole, broken)


def test_errors_of_a_worker_are_those_of_one_process(
    three: Learn, config: RunConfig, train: Classes | Features
) -> None:
    said = []
    for learn in (three, in_parts(config, train, 1)):
        trainer = MetaTrainer(config, train, train, learn=learn)
        for name, weights in trainer.meta.items():
            weights.fill_(0.0 if is_alpha(name) else torch.nan)
        with pytest.raises(Diverged) as caught:
            trainer.iterate()
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


def test_what_workers_cannot_do_is_said_at_once(
    address: str, three: Learn, config: RunConfig, train: Classes | Features
) -> None:
    strange = replace(config, train=replace(config.train, meta_learner="nobody"))
    with pytest.raises(UnknownName) as caught, team(address, strange, train):
        pytest.fail("there is no such meta-learner")
    assert type(caught.value) is UnknownName


def broken(config: RunConfig, train: Classes | Features, device: str) -> Learn:
    raise RuntimeError("a piece of somebody's own")


def test_what_goes_wrong_in_a_worker_is_told(
    address: str,
    config: RunConfig,
    train: Classes | Features,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ClusterError) as caught, team(address, config, train, broken):
        pytest.fail("no worker is ready")
    assert caught.value.reason == "WORKER_FAILED"
    assert "RuntimeError: a piece of somebody's own" in str(caught.value)
    assert "in broken" in caplog.text, "the traceback"


def test_a_cluster_without_room(
    address: str, three: Learn, config: RunConfig, train: Classes | Features
) -> None:
    wide = replace(config, train=replace(config.train, threads=4))
    with pytest.raises(ClusterError) as caught, team(address, wide, train, patience=10):
        pytest.fail("no node has four CPUs")
    assert caught.value.reason == "CLUSTER_TOO_SMALL"
    assert "CPUs" in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense:1"])
def test_nobody_answers(address: str) -> None:
    with (
        pytest.raises(ClusterError) as caught,
        cluster(Workers(count=1, address=address, patience=10), TASKS),
    ):
        pytest.fail("there is no cluster")
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert address in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"replacements": -1},
        {"patience": 0.0},
        {"device": "abacus"},
        {"address": ""},
        {"address": "local"},
        {"address": "ray://127.0.0.1:1"},
    ],
)
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Workers(**{"count": 1, "patience": 250, **options})  # type: ignore[arg-type]


def test_more_workers_than_tasks() -> None:
    with pytest.raises(MetanasError, match="5 tasks"), cluster(Workers(count=6), TASKS):
        pytest.fail("a worker would have nothing to do")


def descendants(process: int) -> set[int]:
    """Processes that it started, and those that these started, while they live."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if rest.split()[0] != "Z":
            children.setdefault(int(rest.split()[1]), []).append(int(path.parent.name))
    found, new = set(), children.get(process, [])
    while new:
        found.update(new)
        new = [child for each in new for child in children.get(each, [])]
    return found


@pytest.fixture
def victim(config: RunConfig, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long run with two workers, in a cluster of its own, after its first iterations."""
    text = TOML.format(path=config.data.path).replace("iterations = 80", "iterations = 4000")
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
        yield child
        child.kill()


def test_a_cluster_of_our_own_goes_down_with_the_run(
    victim: subprocess.Popen[str], tmp_path: Path
) -> None:
    started = descendants(victim.pid)
    assert len(started) > 3
    victim.send_signal(signal.SIGTERM)
    _, error = victim.communicate()
    assert victim.returncode == 128 + signal.SIGTERM, error
    assert "--resume" in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= 1
    wait_for_the_end(started)


def test_a_cluster_of_our_own_does_not_outlive_a_run_that_is_killed(
    victim: subprocess.Popen[str],
) -> None:
    started = descendants(victim.pid)
    victim.kill()
    victim.wait()
    wait_for_the_end(started)


def driver_of(run: int) -> int:
    """The process in which its Ray lives."""
    commands = {}
    for each in descendants(run):
        with suppress(OSError):  # it has ended meanwhile
            commands[each] = Path(f"/proc/{each}/cmdline").read_bytes()
    (driver,) = (each for each, command in commands.items() if b"metanas.raydriver" in command)
    return driver


def logged(folder: Path) -> int:
    """The last iteration of which the log tells."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["iteration"])


def test_a_run_whose_cluster_is_lost_keeps_what_came_before(
    victim: subprocess.Popen[str], tmp_path: Path
) -> None:
    started = descendants(victim.pid)
    os.kill(driver_of(victim.pid), signal.SIGKILL)
    _, error = victim.communicate(timeout=50)  # Ray itself would end the process after 60 s
    assert victim.returncode == 2
    assert error.strip().endswith("[CLUSTER_LOST]")
    assert "--resume" in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= logged(tmp_path / "run") >= 1
    wait_for_the_end(started)


def test_a_run_and_all_that_it_started_are_asked_to_end(
    victim: subprocess.Popen[str], tmp_path: Path
) -> None:
    """As a service's manager does."""
    started = descendants(victim.pid)
    for each in (victim.pid, *started):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGTERM)
    _, error = victim.communicate(timeout=50)
    assert victim.returncode == 128 + signal.SIGTERM, error
    assert "--resume" in error
    assert "Traceback" not in error
    assert int(str(state(tmp_path / "run")[0]["iteration"])) >= logged(tmp_path / "run") >= 1
    wait_for_the_end(started)


def wait_for_the_end(processes: set[int]) -> None:
    """Until none of them lives; the test's limit ends it otherwise."""
    while any(living(each) for each in processes):
        time.sleep(0.05)


def living(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def sessions() -> set[int]:
    """Those that have a living process; a driver and all that it starts are in one of their own."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            condition, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if condition != "Z":
                found.add(int(session))
    return found


def wait_for_the_end_of_sessions_since(before: set[int]) -> None:
    while sessions() - before:
        time.sleep(0.05)


def test_ray_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder whose sockets would have names longer than Linux allows."""
    before = sessions()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    with pytest.raises(ClusterError) as caught, cluster(Workers(count=1), TASKS):
        pytest.fail("there is no cluster")
    assert caught.value.reason == "CLUSTER_NOT_STARTED"
    assert "107" in str(caught.value)
    wait_for_the_end_of_sessions_since(before)


def test_ray_takes_too_long() -> None:
    before = sessions()
    with (
        pytest.raises(ClusterError, match=r"within 0\.5 s") as caught,
        cluster(Workers(count=1, patience=0.5), TASKS),
    ):
        pytest.fail("Ray takes seconds to start")
    assert caught.value.reason == "CLUSTER_NOT_STARTED"
    wait_for_the_end_of_sessions_since(before)


def test_a_cluster_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with nodes("1") as address:
        monkeypatch.delenv("RAY_AUTH_MODE")
        with (
            pytest.raises(ClusterError) as caught,
            cluster(Workers(count=1, address=address), TASKS),
        ):
            pytest.fail("no token was shown")
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert "RAY_AUTH_MODE" in str(caught.value)
