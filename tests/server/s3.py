"""An S3 server with one bucket: moto's, as a separate process, or one that runs already.

The answers of moto's can be made to fail.
"""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

EXISTING = "METANAS_TEST_S3"
"""Variable with the address of a running server, which has an empty bucket `bucket`."""
FAULT = "/fault"
"""Path to which the status line is posted that all requests get; an empty one ends this."""


class Bucket:
    """A bucket of a running server; its process is None for one that the tests have not started."""

    def __init__(self, endpoint: str, pid: int | None = None) -> None:
        self._endpoint, self._pid = endpoint, pid
        self.environment = {
            "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "key"),
            "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "secret"),
            "AWS_REGION": os.environ.get("AWS_REGION", "us-east-1"),
            "AWS_ENDPOINT_URL": endpoint,
        }

    @contextmanager
    def failing(self, status: str) -> Iterator[None]:
        """Answer all requests with this status, for instance "507 Insufficient Storage"."""
        self._process()
        self._post(status)
        try:
            yield
        finally:
            self._post("")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Take requests, and answer them afterwards."""
        pid = self._process()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _process(self) -> int:
        if self._pid is None:
            pytest.skip(f"only moto's server can be made to fail; unset {EXISTING}")
        return self._pid

    def _post(self, status: str) -> None:
        urllib.request.urlopen(f"{self._endpoint}{FAULT}", status.encode()).close()


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Start the server with the empty bucket `bucket`; end it at the exit."""
    if EXISTING in os.environ:
        yield Bucket(os.environ[EXISTING])
        return
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.server.s3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            endpoint = process.stdout.readline().strip()
            assert endpoint, "the S3 server does not start"
            bucket = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
            urllib.request.urlopen(bucket).close()
            yield Bucket(endpoint, process.pid)
        finally:
            process.kill()


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.wrappers import Request, Response

    moto, status = DomainDispatcherApplication(create_backend_app), [""]

    def answer(environ: Any, start: Any) -> Any:
        if environ["PATH_INFO"] == FAULT:
            status[0] = Request(environ).get_data(as_text=True)
            return Response()(environ, start)
        if status[0]:
            Request(environ).get_data()  # else the rest of it would be the next request
            return Response(status=status[0])(environ, start)
        return moto(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
