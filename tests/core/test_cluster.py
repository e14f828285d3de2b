"""Meta-training over a Ray cluster of two nodes on this host, and what can happen to it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas.errors import ClusterError, Diverged, InvalidInput, MetanasError, UnknownName
from metanas.runs.run import run
from metanas.runs.signals import Requests
from metanas.supernet.alphas import is_alpha
from metanas.training.config import DataConfig, RunConfig
from metanas.training.dataset import classes_of
from metanas.training.extensions import Extensions, Learn
from metanas.training.ray_driver import split
from metanas.training.ray_pool import Batch, Workers, cluster
from metanas.training.task_batch import MetaState, TaskResults, total
from metanas.training.trainer import MetaTrainer, Progress
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features
from tests.core.running import assert_same_run, ignore, state
from tests.core.small import run_config
from tests.ray_nodes import started

pytestmark = pytest.mark.slow
TASKS = 5
CONFIG = run_config(tasks=TASKS, iterations=4, validate_every=2, settle=3, snapshot_every=99)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of two nodes, of which neither has room for all workers."""
    with started("2 3") as nodes:
        yield nodes.address


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
    with cluster(Workers(workers=3, address=address, patience=250), TASKS) as learner:
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
    workers = Workers(**{"workers": 1, "address": address, "patience": 250, **options})
    with cluster(workers, TASKS, batch) as learner:
        yield learner(config, train)


def in_parts(config: RunConfig, train: Classes | Features, count: int) -> Learn:
    """The work of `count` workers, done in this process."""
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
    with team(address, config, train, Deadly(marks, 1), workers=2) as mortal:
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
    requests = Requests()

    def stop(seen: Progress) -> None:
        requests.stop = signal.SIGTERM if seen.iteration == 2 else None

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_with(three, config, whole)
    train_with(three, config, broken, on_progress=stop, requests=requests)
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


class Hurried(Workers):
    """Patient with a cluster that is to be joined, and hurried once there."""

    def __reduce__(self) -> tuple[partial[Workers], tuple[()]]:
        return partial(Workers, **{**vars(self), "patience": 2.0}), ()


def test_a_cluster_without_room(
    address: str, three: Learn, config: RunConfig, train: Classes | Features
) -> None:
    wide = replace(config, train=replace(config.train, threads=4))
    hurried = Hurried(workers=1, address=address, patience=250)
    with pytest.raises(ClusterError) as caught, cluster(hurried, TASKS) as learner:
        learner(wide, train)
    assert caught.value.reason == "CLUSTER_TOO_SMALL"
    assert "CPUs" in str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense:1"])
def test_nobody_answers(address: str) -> None:
    with (
        pytest.raises(ClusterError) as caught,
        cluster(Workers(workers=1, address=address, patience=5), TASKS),
    ):
        pytest.fail("there is no cluster")
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert address in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
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
        Workers(**{"workers": 1, "patience": 250, **options})  # type: ignore[arg-type]


def test_more_workers_than_tasks() -> None:
    with pytest.raises(MetanasError, match="5 tasks"), cluster(Workers(workers=6), TASKS):
        pytest.fail("a worker would have nothing to do")


def test_a_cluster_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with started("1") as nodes:
        monkeypatch.delenv("RAY_AUTH_MODE")
        with (
            pytest.raises(ClusterError) as caught,
            cluster(Workers(workers=1, address=nodes.address), TASKS),
        ):
            pytest.fail("no token was shown")
    assert caught.value.reason == "CLUSTER_UNREACHABLE"
    assert "RAY_AUTH_MODE" in str(caught.value)
