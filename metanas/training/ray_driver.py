"""The driver process of Ray: it starts a team of workers and gives them the tasks of a run.

Ray ends its process when it loses its cluster, prints on the terminal, and forks from a process
that must not have threads. So Ray runs in a separate process, the driver. The run talks to the
driver over a socket (`metanas.training.ray_pool`). The driver ends with the run.

A message to the driver is (method, arguments), pickled. The answer is any number of ("warn", text)
and then ("done", value) or ("failed", error).
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from metanas.errors import ClusterError, MetanasError
from metanas.training.config import RunConfig
from metanas.training.ray_pool import Batch, Workers, end_session
from metanas.training.task_batch import MetaState, TaskResults, total
from metanas.util.ray_cluster import join, last_line
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features


class Member:
    """One worker process, a Ray actor."""

    def prepare(
        self, batch: Batch, config: RunConfig, train: Classes | Features, device: str
    ) -> None:
        """Build the function that runs the inner loops."""
        torch.set_num_threads(max(1, config.train.threads))
        self._learn = batch(config, train, device)

    def learn(self, state: MetaState, tasks: range) -> TaskResults:
        """Run these tasks and return their sums."""
        return self._learn(state, tasks)


class Team:
    """Workers that learn the tasks of an iteration together.

    Raises:
        ClusterError: the workers are not all ready in time (CLUSTER_TOO_SMALL).
    """

    def __init__(
        self,
        workers: Workers,
        batch: Batch,
        config: RunConfig,
        train: Classes | Features,
        warn: Callable[[str], None],
    ) -> None:
        self._workers = workers
        self._warn = warn
        gpus = ray.cluster_resources().get("GPU", 0)
        device = workers.device
        if device == "auto":
            device = "cuda" if gpus >= workers.workers else "cpu"
        # turned images are views, which would be sent by value to each worker
        whole = {name: np.ascontiguousarray(images) for name, images in train.items()}
        self._plan = ray.put(batch), ray.put(config), ray.put(whole), device
        self._actor = ray.remote(Member).options(
            num_cpus=max(1, config.train.threads) if workers.address else 1,
            num_gpus=1 if device == "cuda" else 0,
            scheduling_strategy="SPREAD",
        )
        self._members: dict[int, Any] = {}
        self._hire(range(workers.workers))

    def __call__(self, state: MetaState, tasks: range) -> TaskResults:
        """Run these tasks and return their sums.

        Raises:
            ClusterError: too many workers die (WORKERS_DIED), or they cannot be replaced.
            Diverged: as in one process.
        """
        parts = split(tasks, min(self._workers.workers, len(tasks)))
        shared = ray.put(state)
        results: dict[int, TaskResults] = {}
        for _ in range(1 + self._workers.replacements):
            self._hire([number for number in range(len(parts)) if number not in self._members])
            lost = self._learn(shared, parts, results)
            if not lost:
                return total(results[number] for number in range(len(parts)))
        message = f"meta-iteration {state.iteration + 1}: workers died, were replaced "
        message += f"{self._workers.replacements} times, and died again ({lost}); the run has its "
        message += "last snapshot: continue with --resume"
        raise ClusterError("WORKERS_DIED", message)

    def close(self) -> None:
        """End the workers; the cluster stays."""
        for number in list(self._members):
            ray.kill(self._members.pop(number))

    def _learn(self, state: Any, parts: Sequence[range], results: dict[int, TaskResults]) -> str:
        """Run the parts without results; drop members that died, and return the reason."""
        missing = [number for number in range(len(parts)) if number not in results]
        answers = {n: self._members[n].learn.remote(state, parts[n]) for n in missing}
        reason = ""
        for number, answer in answers.items():
            try:
                results[number] = _result(answer)
            except (RayActorError, ObjectLostError) as error:
                reason = str(error).strip().partition("\n")[0] or repr(error)
                self._warn(f"worker {number} died, its tasks begin again: {reason}")
                ray.kill(self._members.pop(number))
        return reason

    def _hire(self, numbers: Sequence[int]) -> None:
        """Start members with these numbers; wait until they are ready, or dead."""
        self._members |= {number: self._actor.remote() for number in numbers}
        ready = [self._members[number].prepare.remote(*self._plan) for number in numbers]
        if not ready:
            return
        done, waiting = ray.wait(ready, num_returns=len(ready), timeout=self._workers.patience)
        if waiting:
            self.close()
            message = f"{len(waiting)} of {self._workers.workers} workers were not ready within "
            message += f"{self._workers.patience:g} s, with {free()} free in the cluster; "
            message += "have fewer --workers, more hosts, or more --patience"
            raise ClusterError("CLUSTER_TOO_SMALL", message)
        for each in done:
            try:
                _result(each)
            except RayActorError:
                continue  # the next call of learn replaces it


def _result(answer: Any) -> Any:
    """Return the answer of a worker; unwrap errors of the core."""
    try:
        return ray.get(answer)
    except RayTaskError as error:
        if isinstance(error.cause, MetanasError):
            raise error.cause from None
        raise


def split(tasks: range, count: int) -> list[range]:
    """Split a range into `count` parts, in order; their lengths differ by one at most."""
    ends = [len(tasks) * number // count for number in range(count + 1)]
    return [tasks[first:last] for first, last in pairwise(ends)]


def free() -> str:
    """Describe the free resources of the cluster."""
    resources = ray.available_resources()
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


class Driver:
    """The methods that a run can call."""

    def __init__(self, workers: Workers, warn: Callable[[str], None]) -> None:
        self._workers = workers
        self._warn = warn
        self._team: Team | None = None

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            ClusterError: CLUSTER_UNREACHABLE, or CLUSTER_NOT_STARTED.
        """
        join(self._workers.address, self._workers.workers)

    def hire(self, batch: Batch, config: RunConfig, train: Classes | Features) -> None:
        """Replace the team by one for these classes."""
        if self._team:
            self._team.close()
        self._team = Team(self._workers, batch, config, train, self._warn)

    def learn(self, state: MetaState, tasks: range) -> TaskResults:
        """Run these tasks and return their sums."""
        assert self._team, "call hire first"
        return self._team(state, tasks)


def serve(channel: Connection) -> None:
    """Answer messages until the channel is closed."""

    def answer(kind: str, value: Any) -> None:
        channel.send_bytes(cloudpickle.dumps((kind, value)))

    driver = Driver(cloudpickle.loads(channel.recv_bytes()), lambda text: answer("warn", text))
    method, arguments = "connect", ()
    while True:
        try:
            answer("done", getattr(driver, method)(*arguments))
        except MetanasError as error:
            answer("failed", error)
        except Exception as error:
            answer("warn", traceback.format_exc())
            message = f"a worker failed: {last_line(str(error)) or repr(error)}"
            answer("failed", ClusterError("WORKER_FAILED", message))
        method, arguments = cloudpickle.loads(channel.recv_bytes())


def end_with_the_run() -> None:
    """End this process when its standard input ends, which the run holds open."""
    sys.stdin.read()
    end_session(os.getpid())
    os._exit(1)


def main(descriptor: int) -> None:
    """Serve a run at the other end of a socket."""
    os.set_inheritable(descriptor, False)  # processes of Ray must not hold the socket
    threading.Thread(target=end_with_the_run, daemon=True).start()
    try:
        serve(Connection(descriptor))
    except (EOFError, OSError):
        ray.shutdown()  # the run has closed the socket
