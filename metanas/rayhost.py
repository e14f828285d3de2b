"""A Ray cluster to join: one that is there, or one of our own on this host.

Both are asked for in another process, which can be told to stop waiting and be killed with all that
it started. That process has an interpreter to itself, too: Ray forks what it starts, and a process
with the threads of torch and gRPC in it is none to fork.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from metanas.errors import ClusterError

CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)"
HOST = """
import ray, sys
ray.init("local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
"""Its input is empty, and ends when it is asked to, or when whoever started it is no more."""
TOKEN_HINT = (
    "; it asks for its token: set RAY_AUTH_MODE=token, and have the token in ~/.ray/auth_token"
)
ATTEMPTS = 3
"""To start a cluster: Ray gives its processes 30 seconds, which is little on a busy machine."""
LOOK = 0.05
"""Seconds between two looks at a cluster that starts."""
GOODBYE = 20.0
"""Seconds that a cluster of our own has to stop before it is killed."""


def reach(address: str, patience: float) -> None:
    """See whether a cluster can be joined.

    address: HOST:PORT.
    patience: seconds until it has to answer.

    Raises:
        ClusterError: no answer, or one that is none (CLUSTER_UNREACHABLE).
    """
    with _apart(CONNECT, address) as (child, _, said):
        try:
            # Ray itself waits for an answer as long as it likes
            failed = child.wait(patience)
        except subprocess.TimeoutExpired as error:
            message = f"no Ray cluster answered at {address} within {patience:g} s;"
            message += " is it HOST:PORT of `ray start --head`, and does this host reach it?"
            raise ClusterError("CLUSTER_UNREACHABLE", message) from error
        if failed:
            complaint = _all(said)
            message = f"the Ray cluster at {address} cannot be joined: {last_line(complaint)}"
            if "AuthenticationError" in complaint:
                message += TOKEN_HINT
            raise ClusterError("CLUSTER_UNREACHABLE", message)


@contextmanager
def own_cluster(cpus: int, patience: float) -> Iterator[str]:
    """The address of a cluster on this host, which ends with the context, or with this process.

    cpus: it has to give away.
    patience: seconds until it has to answer.

    Raises:
        ClusterError: Ray does not start (CLUSTER_NOT_STARTED).
    """
    with hosted(HOST, str(cpus), patience) as address:
        _show_token()
        yield address


def _show_token() -> None:
    """Ray asks for a token in clusters that it starts, and has to be told to show it."""
    try:
        # there is no public function for it
        from ray._private.authentication import authentication_token_setup as tokens

        use_token = tokens.maybe_enable_token_auth_if_token_available
    except (ImportError, AttributeError) as error:
        message = f"this version of Ray cannot be told to use the token of a cluster ({error}); "
        message += "install ray 2.60, or start a cluster yourself and name its --address"
        raise ClusterError("CLUSTER_NOT_STARTED", message) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    use_token(warn_if_disabled=False)


@contextmanager
def hosted(program: str, argument: str, patience: float) -> Iterator[str]:
    """The address of a cluster that a program starts, prints, and stops when its input ends.

    Raises:
        ClusterError: none of several attempts comes to an address in time (CLUSTER_NOT_STARTED).
    """
    latest = time.monotonic() + patience
    for attempt in range(ATTEMPTS):
        with _apart(program, argument) as (child, told, said):
            if address := _address(child, told, latest):
                try:
                    yield address
                finally:
                    _end(child)
                return
            late = child.poll() is None
            if late or attempt == ATTEMPTS - 1:
                why = f"not within {patience:g} s" if late else last_line(_all(said))
                message = f"Ray did not start on this host: {why} (its logs are in "
                message += "session_latest/logs of /tmp/ray, or of RAY_TMPDIR)"
                raise ClusterError("CLUSTER_NOT_STARTED", message)


@contextmanager
def _apart(
    program: str, argument: str
) -> Iterator[tuple[subprocess.Popen[bytes], IO[str], IO[str]]]:
    """A program in a session of its own, what it prints and what it complains of.

    It is killed after the context, with all that it started.
    """
    # files, since what Ray starts would inherit pipes, and hold them open
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as told,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said,
        subprocess.Popen(
            [sys.executable, "-c", program, argument],
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=said,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield child, told, said
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(child.pid, signal.SIGKILL)


def _address(child: subprocess.Popen[bytes], told: IO[str], latest: float) -> str:
    """What a starting cluster tells, or nothing if it ends, or takes too long."""
    while child.poll() is None and time.monotonic() < latest:
        first, end, _ = _all(told).partition("\n")
        if end:
            return first
        time.sleep(LOOK)
    return ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let a cluster stop by itself, for some time."""
    assert child.stdin is not None
    child.stdin.close()
    with suppress(subprocess.TimeoutExpired):  # it is killed now
        child.wait(GOODBYE)


def last_line(text: str) -> str:
    """What a traceback, or one of Ray's explanations, comes to."""
    return "".join(text.strip().splitlines()[-1:]).strip()


def _all(file: IO[str]) -> str:
    """What was written to a file so far."""
    file.seek(0)
    return file.read()
