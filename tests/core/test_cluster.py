"""Meta-training over a Ray cluster of two nodes on this host, and what can happen to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster

from metanas.alphas import is_alpha
from metanas.cluster import ATTEMPTS, Batch, Team, Workers, cluster, split
from metanas.config import DataConfig, RunConfig
from metanas.episodes import Classes, Features
from metanas.errors import ClusterError, Diverged, InvalidInput, MetanasError, UnknownName
from metanas.extensions import Extensions, Learn
from metanas.metabatch import MetaState, TaskResults, total
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


def started(start: Callable[[], Any]) -> Any:
    """What starts, at the latest at the third time: Ray gives a node 30 seconds."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except Exception:  # Ray has no class for it
            continue
    return start()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a cluster of two nodes, neither of which has room for all, is to be joined."""
    # without these a node has fewer processes to start
    few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    nodes = Cluster()
    for cpus in (2, 3):
        started(partial(nodes.add_node, num_cpus=cpus, **few))
    yield nodes.address
    nodes.shutdown()


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
    config: RunConfig, train: Classes | Features, batch: Batch | None = None, **options: Any
) -> Iterator[Team]:
    """Further workers, in the cluster of the three."""
    workers = Workers(**{"count": 1, "address": "joined already", "patience": 250, **options})
    with closing(Team(workers, batch or Extensions().batch, config, train)) as hired:
        yield hired


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
    three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    one, alone, many, parts = (tmp_path / name for name in ("one", "alone", "many", "parts"))
    with team(config, train) as single:
        train_with(single, config, one)
    train_with(in_parts(config, train, 1), config, alone)
    assert_same_run(one, alone)
    train_with(three, config, many)
    train_with(in_parts(config, train, 3), config, parts)
    assert_same_run(many, parts)
    assert_close(many, alone)


def test_a_worker_that_dies_is_replaced_and_changes_nothing(
    three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    marks, hit, whole = (tmp_path / name for name in ("marks", "hit", "whole"))
    marks.mkdir()
    with team(config, train, Deadly(marks, 1), count=2) as mortal:
        train_with(mortal, config, hit)
    assert len(list(marks.iterdir())) == 1, "a process was killed"
    train_with(in_parts(config, train, 2), config, whole)
    assert_same_run(hit, whole)


def test_workers_that_keep_dying_end_the_run_which_others_resume(
    three: Learn, config: RunConfig, train: Classes | Features, tmp_path: Path
) -> None:
    marks, folder, alone = (tmp_path / name for name in ("marks", "run", "alone"))
    marks.mkdir()
    with (
        team(config, train, Deadly(marks, 99), replacements=1) as doomed,
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
    three: Learn, config: RunConfig, train: Classes | Features
) -> None:
    strange = replace(config, train=replace(config.train, meta_learner="nobody"))
    with pytest.raises(UnknownName) as caught, team(strange, train):
        pytest.fail("there is no such meta-learner")
    assert type(caught.value) is UnknownName


def test_a_cluster_without_room(three: Learn, config: RunConfig, train: Classes | Features) -> None:
    wide = replace(config, train=replace(config.train, threads=4))
    with pytest.raises(ClusterError) as caught, team(wide, train, patience=2):
        pytest.fail("no node has four CPUs")
    assert caught.value.reason == "CLUSTER_TOO_SMALL"
    assert "CPUs" in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_nobody_answers(address: str) -> None:
    with (
        pytest.raises(ClusterError) as caught,
        cluster(Workers(count=1, address=address, patience=10), TASKS),
    ):
        pytest.fail("there is no cluster")
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert address in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"replacements": -1}, {"patience": 0.0}, {"device": "abacus"}]
)
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Workers(**{"count": 1, "address": "joined already", "patience": 250, **options})  # type: ignore[arg-type]


def test_more_workers_than_tasks() -> None:
    with pytest.raises(MetanasError, match="5 tasks"), cluster(Workers(count=6), TASKS):
        pytest.fail("a worker would have nothing to do")


def members(session: int) -> list[str]:
    """What runs in a session, by its leader's number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[3]) == session and rest.split()[0] != "Z":
            found.append(name)
    return found


def test_a_cluster_of_our_own_goes_down_with_the_run(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = TOML.format(path=config.data.path).replace("iterations = 80", "iterations = 4000")
    (tmp_path / "run.toml").write_text(text)
    command = [sys.executable, "-m", "metanas", "train", str(tmp_path / "run.toml")]
    victim = subprocess.Popen(
        [*command, "--out", str(folder), "--workers", "2", "--set", "train.tasks=2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (folder / "log.jsonl").exists():
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.05)
    assert len(members(victim.pid)) > 3
    victim.send_signal(signal.SIGTERM)
    _, error = victim.communicate()
    assert victim.returncode == 128 + signal.SIGTERM, error
    assert "--resume" in error
    assert int(str(state(folder)[0]["iteration"])) >= 1
    while members(victim.pid):
        time.sleep(0.05)
