"""The tasks of a meta-iteration over the workers of a Ray cluster. Needs the extra "ray".

Every worker is an actor in a process of its own, on whatever host and GPU Ray has for it. It is
given the classes to train on once and the state once an iteration, through Ray's object store; what
comes back is the sum over its tasks. So hosts need no common file system, and a worker that died
loses its part of one iteration.

Notable:
- Which tasks belong together depends on the number of workers alone, and results are added in the
  order of the tasks: neither who is quick nor who has died changes a bit.
- The state is that of the run, in the process that started it: snapshots, validation and resuming
  are what they are without workers, and a run can go on with another number of them.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from metanas.config import RunConfig
from metanas.episodes import Classes, Features
from metanas.errors import ClusterError, InvalidInput, MetanasError, Violation
from metanas.extensions import Extensions, Learn, Learner
from metanas.metabatch import MetaState, TaskResults, total
from metanas.rayhost import last_line, own_cluster, reach

Batch = Callable[[RunConfig, Classes | Features, str], Learn]
"""Makes what runs inner loops in a worker, on a device: `Extensions.batch`, or another."""

DEVICES = ("auto", "cpu", "cuda")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers there are, where, and what is put up with."""

    count: int
    """Workers, at most as many as an iteration has tasks."""
    address: str = ""
    """HOST:PORT of a cluster to join, of which this host has to be a part; without one, a cluster
    on this host is started for the run, and stopped after it."""
    device: str = "auto"
    """"cuda" is a GPU for each worker, "cpu" none, "auto" the former where there are so many."""
    replacements: int = 3
    """How often in one iteration workers that died are replaced before the run gives up."""
    patience: float = 120.0
    """Seconds until a cluster has to answer, and until its workers have to be ready."""

    def __post_init__(self) -> None:
        checks = {
            "workers": (self.count >= 1, "must be at least 1"),
            "device": (self.device in DEVICES, f"must be one of {', '.join(DEVICES)}"),
            "replacements": (self.replacements >= 0, "must be at least 0"),
            "patience": (0 < self.patience < float("inf"), "must be above 0"),
        }
        bad = [
            Violation(f"--{name}", "OPTION_OUT_OF_RANGE", what)
            for name, (ok, what) in checks.items()
            if not ok
        ]
        if bad:
            raise InvalidInput(bad)


@contextmanager
def cluster(workers: Workers, tasks: int, batch: Batch | None = None) -> Iterator[Learner]:
    """Join a cluster, or start one; what is given makes a team of workers in it.

    Ray sets a handler for SIGTERM: whoever has one of their own sets it inside.

    tasks: of an iteration.
    batch: by default our own pieces (`Extensions`).

    Raises:
        ClusterError: no answer (CLUSTER_UNREACHABLE), or Ray did not start (CLUSTER_NOT_STARTED).
        InvalidInput: more workers than tasks.
    """
    if workers.count > tasks:
        message = f"an iteration has {tasks} tasks, so that many workers are of use; ask for fewer "
        message += "workers or raise train.tasks"
        raise InvalidInput.single("--workers", "OPTION_OUT_OF_RANGE", message)
    # nothing of ours calls home
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _address(workers) as address:
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            make = batch or Extensions().batch
            yield lambda config, train: Team(workers, make, config, train)
        finally:
            ray.shutdown()


def _address(workers: Workers) -> AbstractContextManager[str]:
    """A cluster that answers: one that is there, or one with room for the workers."""
    if not workers.address:
        return own_cluster(workers.count, workers.patience)
    reach(workers.address, workers.patience)
    return nullcontext(workers.address)


class Member:
    """One worker, in a process of its own."""

    def prepare(
        self, batch: Batch, config: RunConfig, train: Classes | Features, device: str
    ) -> None:
        """Get ready to learn."""
        torch.set_num_threads(max(1, config.train.threads))
        self._learn = batch(config, train, device)

    def learn(self, state: MetaState, tasks: range) -> TaskResults:
        """What these tasks come to."""
        return self._learn(state, tasks)


class Team:
    """Workers that learn the tasks of an iteration together.

    Raises:
        ClusterError: the workers are not all ready in time (CLUSTER_TOO_SMALL).
    """

    def __init__(
        self, workers: Workers, batch: Batch, config: RunConfig, train: Classes | Features
    ) -> None:
        self._workers = workers
        gpus = ray.cluster_resources().get("GPU", 0)
        device = workers.device
        if device == "auto":
            device = "cuda" if gpus >= workers.count else "cpu"
        # turned images are views, which would be sent by value to each worker
        whole = {name: np.ascontiguousarray(images) for name, images in train.items()}
        self._plan = ray.put(batch), ray.put(config), ray.put(whole), device
        self._actor = ray.remote(Member).options(
            num_cpus=max(1, config.train.threads) if workers.address else 1,
            num_gpus=1 if device == "cuda" else 0,
            scheduling_strategy="SPREAD",
        )
        self._members: dict[int, Any] = {}
        self._hire(range(workers.count))

    def __call__(self, state: MetaState, tasks: range) -> TaskResults:
        """The sum of what these tasks come to.

        Raises:
            ClusterError: workers die again and again (WORKERS_DIED), or cannot be replaced.
            Diverged: as in one process.
        """
        parts = split(tasks, min(self._workers.count, len(tasks)))
        shared = ray.put(state)
        found: dict[int, TaskResults] = {}
        for _ in range(1 + self._workers.replacements):
            self._hire([number for number in range(len(parts)) if number not in self._members])
            lost = self._learn(shared, parts, found)
            if not lost:
                return total(found[number] for number in range(len(parts)))
        message = f"meta-iteration {state.iteration + 1}: workers died, were replaced "
        message += f"{self._workers.replacements} times, and died again ({lost}); a run keeps what "
        message += "came before: go on with --resume"
        raise ClusterError("WORKERS_DIED", message)

    def close(self) -> None:
        """Let the workers go, if the cluster is to be used further."""
        for number in list(self._members):
            ray.kill(self._members.pop(number))

    def _learn(self, state: Any, parts: Sequence[range], found: dict[int, TaskResults]) -> str:
        """Find what is missing; the members that died meanwhile are gone, and why is returned."""
        missing = [number for number in range(len(parts)) if number not in found]
        asked = {n: self._members[n].learn.remote(state, parts[n]) for n in missing}
        why = ""
        for number, answer in asked.items():
            try:
                found[number] = _result(answer)
            except (RayActorError, ObjectLostError) as error:
                why = last_line(str(error)) or repr(error)
                log.warning("worker %d died, its tasks are begun again: %s", number, why)
                ray.kill(self._members.pop(number))
        return why

    def _hire(self, numbers: Sequence[int]) -> None:
        """Wait until members of these numbers are ready, or dead."""
        self._members |= {number: self._actor.remote() for number in numbers}
        ready = [self._members[number].prepare.remote(*self._plan) for number in numbers]
        if not ready:
            return
        done, waiting = ray.wait(ready, num_returns=len(ready), timeout=self._workers.patience)
        if waiting:
            self.close()
            message = f"{len(waiting)} of {self._workers.count} workers were not ready within "
            message += f"{self._workers.patience:g} s, with {free()} free in the cluster; "
            message += "have fewer --workers, more hosts, or more --patience"
            raise ClusterError("CLUSTER_TOO_SMALL", message)
        for each in done:
            try:
                _result(each)
            except RayActorError:
                continue  # whoever asks it to learn will notice


def _result(answer: Any) -> Any:
    """What a worker answered; an error of ours as it was raised."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        if isinstance(error.cause, MetanasError):
            raise error.cause from None
        raise


def split(tasks: range, count: int) -> list[range]:
    """So many parts of a range, in order; their lengths differ by one at most."""
    ends = [len(tasks) * number // count for number in range(count + 1)]
    return [tasks[first:last] for first, last in pairwise(ends)]


def free() -> str:
    """What nobody uses in the cluster, in words."""
    there = ray.available_resources()
    return f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
