"""The tasks of a meta-iteration over the workers of a Ray cluster. Needs the extra "ray".

Every worker is an actor in a separate process, on a host and GPU that Ray chooses. Ray's object
store sends it the classes to train on once, and the state once an iteration. It returns the sum
over its tasks. So hosts need no common file system, and the death of a worker costs its part of one
iteration.

Notes:
- The parts depend on the number of workers alone, and results are added in the order of the tasks.
  So neither the speed nor the death of a worker changes a bit.
- The state stays in the process of the run. Snapshots, validation and resuming are the same as
  without workers, and a run can resume with another number of them.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

from ray import cloudpickle  # it can pickle functions of the main program too

from metanas.errors import ClusterError, InvalidInput
from metanas.training.config import RunConfig
from metanas.training.extensions import Extensions, Learn, Learner
from metanas.training.task_batch import MetaState, TaskResults
from metanas.util.fields import Count, Natural, OneOf, Positive, check, require
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features

Batch = Callable[[RunConfig, Classes | Features, str], Learn]
"""Make the function that runs inner loops in a worker, on a device: `Extensions.batch`."""

DRIVER = """
import sys
sys.path[:] = sys.argv[2:]
from metanas.training.ray_driver import main
main(int(sys.argv[1]))
"""
"""Program of the driver, with the module path of the run, which Ray's workers inherit."""
ATTEMPTS = 3
"""Attempts to start a cluster: 30 seconds, Ray's limit, are few on a busy machine."""
POLL_SECONDS = 0.1
"""Seconds between two checks of a driver that starts."""
LEAVE_SECONDS = 20.0
"""Seconds for a driver to leave or stop its cluster before it is killed."""
ADDRESS = re.compile(r"[^/\s]+:[0-9]{1,5}")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The number of workers, their place, and the number of losses to accept."""

    workers: Count
    """Workers, at most as many as an iteration has tasks."""
    address: str | None = None
    """HOST:PORT of a cluster to join; this host has to be part of it. Without one, a cluster is
    started on this host for the run and stopped after it."""
    device: Annotated[str, OneOf(("auto", "cpu", "cuda"))] = "auto"
    """"cuda" is a GPU for each worker, "cpu" none, "auto" a GPU for each if there are enough."""
    replacements: Natural = 3
    """Times in one iteration that dead workers are replaced before the run ends."""
    patience: Positive = 120.0
    """Seconds until a cluster has to answer, and until its workers have to be ready."""

    def __post_init__(self) -> None:
        check(self)
        fits = self.address is None or ADDRESS.fullmatch(self.address) is not None
        require(("address", fits, "must be HOST:PORT"))


@contextmanager
def cluster(workers: Workers, tasks: int, batch: Batch | None = None) -> Iterator[Learner]:
    """Join a cluster, or start one; yield a function that starts a team of workers in it.

    tasks: tasks of an iteration.
    batch: makes the function that runs inner loops; that of `Extensions` by default.

    Raises:
        ClusterError: no answer (CLUSTER_UNREACHABLE), Ray did not start (CLUSTER_NOT_STARTED), or
            is not installed (EXTRA_MISSING).
        InvalidInput: more workers than tasks.
    """
    if workers.workers > tasks:
        message = f"an iteration has {tasks} tasks, so that many workers are of use; ask for fewer "
        message += "workers or raise train.tasks"
        raise InvalidInput.single("--workers", "OPTION_OUT_OF_RANGE", message)
    make = batch or Extensions().batch
    with _driver(workers) as driver:

        def learner(config: RunConfig, train: Classes | Features) -> Learn:
            driver.call("hire", make, config, train)
            return learn

        def learn(state: MetaState, tasks: range) -> TaskResults:
            results: TaskResults = driver.call("learn", state, tasks)
            return results

        yield learner


@contextmanager
def _driver(workers: Workers) -> Iterator["Remote"]:
    """Yield a driver that has joined its cluster, or started one in at most three attempts."""
    latest = time.monotonic() + workers.patience
    for attempt in range(ATTEMPTS):
        with _driver_process() as driver:
            try:
                driver.connect(workers, latest)
            except ClusterError as error:
                last = error.reason != "CLUSTER_NOT_STARTED" or attempt == ATTEMPTS - 1
                if not last and time.monotonic() < latest:
                    continue
                raise
            yield driver
            driver.leave()
            return


@contextmanager
def _driver_process() -> Iterator["Remote"]:
    """Start the driver in a new session, which a Ctrl-C does not reach.

    After the context, all processes of the session are killed.
    """
    ours, theirs = Pipe()
    path = [each or os.getcwd() for each in sys.path]
    with (
        ours,
        theirs,
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(theirs.fileno()), *path],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
            # Ray prints much; important messages come over the socket
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child,
    ):
        theirs.close()
        try:
            yield Remote(child, ours)
        finally:
            child.kill()
            end_session(child.pid)


class Remote:
    """The run's side of the driver (`metanas.training.ray_driver`)."""

    def __init__(self, child: "subprocess.Popen[bytes]", channel: Connection) -> None:
        self._child = child
        self._channel = channel

    def connect(self, workers: Workers, latest: float) -> None:
        """Wait until the driver has a cluster.

        Raises:
            ClusterError: the driver has no cluster in time.
        """
        with suppress(OSError):  # the process has ended; _answer raises
            self._channel.send_bytes(cloudpickle.dumps(workers))
        while not self._channel.poll(POLL_SECONDS):
            if time.monotonic() > latest:
                raise _no_answer(workers)
        try:
            self._answer()
        except ClusterError as error:
            if workers.address is not None:
                raise (_no_answer(workers) if error.reason == "CLUSTER_LOST" else error) from error
            message = f"Ray did not start on this host: {error}. Is there room in its folder "
            message += "(/tmp/ray, or below RAY_TMPDIR or TMPDIR)? Its logs are in "
            message += "session_latest/logs there"
            raise ClusterError("CLUSTER_NOT_STARTED", message) from error

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the driver and return its result.

        Raises:
            MetanasError: the error of the method.
            ClusterError: the driver has ended (CLUSTER_LOST).
        """
        with suppress(OSError):
            self._channel.send_bytes(cloudpickle.dumps((method, arguments)))
        return self._answer()

    def leave(self) -> None:
        """Close the channel and wait a limited time until the driver has left its cluster."""
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(LEAVE_SECONDS)

    def _answer(self) -> Any:
        while True:
            try:
                kind, value = cloudpickle.loads(self._channel.recv_bytes())
            except (EOFError, OSError) as error:
                message = "the driver process of Ray has ended, so workers cannot be reached; "
                message += "the run has its last snapshot: continue with --resume"
                raise ClusterError("CLUSTER_LOST", message) from error
            if kind == "failed":
                raise value
            if kind == "done":
                return value
            log.warning("%s", value)


def end_session(leader: int) -> None:
    """Kill all processes of a session, in which Ray's workers have several process groups."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):  # without /proc Ray has to end them
        with suppress(OSError):  # it has ended
            _, _, rest = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
            if int(rest.split()[3]) == leader:
                processes.append(int(path.parent.name))
    for each in sorted(set(processes) - {os.getpid()}):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _no_answer(workers: Workers) -> ClusterError:
    """Make the error of a cluster that does not answer."""
    if workers.address is None:
        message = f"not within {workers.patience:g} s"
        return ClusterError("CLUSTER_NOT_STARTED", f"Ray did not start on this host: {message}")
    message = f"no Ray cluster answered at {workers.address} within {workers.patience:g} s;"
    message += " is it HOST:PORT of `ray start --head`, and does this host reach it?"
    return ClusterError("CLUSTER_UNREACHABLE", message)
