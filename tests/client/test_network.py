"""The way to a server: addresses, proxies, silent servers, and processes that are forked."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from metanas_client import Client, InvalidInput, Unavailable
from metanas_client.channel import ping_options
from metanas_client.network import advice, host_of, is_local, proxy_for
from metanas_client.transport import Pause
from tests.client.conftest import ENVIRONMENT, server_process
from tests.client.test_cli import metanas
from tests.server.processes import workers_of

HANG_SECONDS = 60
PING_SECONDS = 60
"""Time after which gRPC ends a connection on which a ping has no answer, unless it is told."""
PROXY = {"http_proxy": "http://user:secret@127.0.0.1:9"}  # nothing listens at port 9
FORKING = """
import os, sys
from metanas_client import Client, ForkedProcess
parent = Client(sys.argv[1])
assert parent.checkpoints()
if sys.argv[2] == "closed":
    parent.close()
child = os.fork()
if child == 0:
    try:
        if sys.argv[2] == "inherited":
            found = parent.checkpoints()
        else:
            with Client(sys.argv[1]) as client:
                found = client.checkpoints()
        print("answered", len(found))
    except ForkedProcess as error:
        print("refused", error.reason, "spawn" in str(error))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://10.0.0.1:50051", "write '10.0.0.1:50051'"),
        ("https://host:50051/path", "write 'host:50051' and use TLS"),
        ("grpc://host:1", "write 'host:1'"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("host:٣", "1 to 65535"),
    ],
)
def test_an_address_that_cannot_be_is_refused_with_what_to_write(
    address: str, expected: str
) -> None:
    with pytest.raises(InvalidInput, match="server") as caught:
        Client(address)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "address", ["h:1", "[::1]:1", "dns:///h:1", "unix:/tmp/s", "ipv4:1.2.3.4:5"]
)
def test_what_grpc_resolves_is_an_address(address: str) -> None:
    Client(address).close()


def test_addresses_of_this_machine_are_known() -> None:
    local = [
        "localhost:1",
        "127.0.0.1:1",
        "127.9.9.9:1",
        "[::1]:1",
        "unix:/tmp/s",
        "dns:///LOCALHOST:1",
    ]
    assert all(map(is_local, local))
    assert not any(
        map(is_local, ["10.0.0.1:1", "host:1", "localhost.example.com:1", "[2001:db8::1]:1"])
    )
    assert host_of("ipv6:[2001:db8::1]:50051") == "2001:db8::1"


def test_the_proxy_is_the_one_that_grpc_uses() -> None:
    assert proxy_for("host:1", {}) is None
    assert proxy_for("host:1", PROXY) == ("http_proxy", "127.0.0.1:9")
    assert proxy_for("127.0.0.1:1", PROXY) is None
    assert proxy_for("a.host:1", {**PROXY, "no_proxy": "x, host"}) is None
    assert proxy_for("host:1", {**PROXY, "grpc_proxy": "p:2"}) == ("grpc_proxy", "p:2")


def test_a_proxy_is_no_hindrance_to_a_server_on_this_machine(server: str) -> None:
    assert metanas("checkpoints", "--json", "--server", server, **PROXY).returncode == 0


def test_a_proxy_on_the_way_is_named() -> None:
    done = metanas("checkpoints", "--server", "192.0.2.1:50051", **PROXY)
    assert done.returncode == 3
    assert "proxy 127.0.0.1:9" in done.stderr
    assert "http_proxy" in done.stderr
    assert "no_proxy=192.0.2.1" in done.stderr
    assert "secret" not in done.stderr


def test_tls_against_a_server_without_is_said(server: str) -> None:
    done = metanas("checkpoints", "--tls", "--server", server)
    assert done.returncode == 3
    assert "speaks no TLS: leave out --tls" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("detail", "secure", "certificate", "expected"),
    [
        ("WRONG_VERSION_NUMBER", True, False, "no TLS"),
        ("CERTIFICATE_VERIFY_FAILED", True, False, "--ca"),
        ("Socket closed", True, False, "--cert"),
        ("Socket closed", False, False, "--tls"),
        ("Expected SETTINGS frame as the first frame", False, False, "--studio"),
    ],
)
def test_the_advice_fits_the_failure(
    detail: str, secure: bool, certificate: bool, expected: str
) -> None:
    assert expected in advice("h:1", detail, secure=secure, certificate=certificate, proxy=None)
    assert advice("h:1", "refused", secure=secure, certificate=certificate, proxy=None) == ""


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("closed", "refused FORKED_PROCESS True"),
        ("open", "refused FORKED_PROCESS True"),
        ("inherited", "refused FORKED_PROCESS True"),
    ],
)
def test_a_forked_process_never_hangs(server: str, parent: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, server, parent],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
        env=ENVIRONMENT,
    )
    assert done.stdout.splitlines() == [expected]


@pytest.mark.slow
def test_a_server_that_has_stopped_is_noticed(checkpoints: Path, tmp_path: Path) -> None:
    """Long before gRPC would notice it by itself."""
    support = {"a": [np.zeros((9, 9), np.uint8)], "b": [np.full((9, 9), 255, np.uint8)]}
    with (
        server_process(checkpoints, tmp_path / "data") as (address, process),
        Client(address, patience=0, keepalive=1) as client,
    ):
        progress = client.adapt(support, options={"steps": 500}).progress()
        next(progress)
        os.kill(process.pid, signal.SIGSTOP)
        latest = time.monotonic() + PING_SECONDS / 2
        try:
            with pytest.raises(Unavailable):
                list(progress)
            assert time.monotonic() < latest
        finally:
            os.kill(process.pid, signal.SIGCONT)


def test_a_ping_through_full_buffers_has_the_time_of_the_whole_silence() -> None:
    """On a link of 64 KiB/s its answer comes after all data that are on the way."""
    options = dict(ping_options(10.0))
    silence = options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"]
    assert options["grpc.http2.ping_timeout_ms"] == silence == 20_000


@pytest.mark.slow
def test_silence_of_a_server_that_answers_pings_ends_no_call(
    checkpoints: Path, tmp_path: Path
) -> None:
    support = {"a": [np.zeros((9, 9), np.uint8)], "b": [np.full((9, 9), 255, np.uint8)]}
    with (
        server_process(checkpoints, tmp_path / "data") as (address, process),
        Client(address, patience=0, keepalive=1) as client,
    ):
        progress = client.adapt(support, options={"steps": 100}).progress()
        next(progress)
        (worker,) = workers_of(process.pid)
        os.kill(worker, signal.SIGSTOP)
        time.sleep(6)  # six pings; gRPC closes a connection after three that it finds too frequent
        os.kill(worker, signal.SIGCONT)
        assert list(progress)[-1].stage == "check"


def test_silence_before_an_interruption_uses_up_no_patience() -> None:
    async def interrupt() -> list[bool]:
        pause = Pause(0.2)
        await asyncio.sleep(0.3)
        retries = [pause.fits()]
        await pause.wait()
        await asyncio.sleep(0.2)
        return [*retries, pause.fits()]

    assert asyncio.run(interrupt()) == [True, False]


@pytest.mark.parametrize("keepalive", [0, 0.5, -1])
def test_a_keepalive_that_floods_the_server_is_refused(keepalive: float) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        Client("h:1", keepalive=keepalive)


@pytest.mark.parametrize("token", ["secret\n", "two words", "\u00e9", ""])
def test_a_token_that_no_call_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput, match="without spaces") as caught:
        Client("h:1", token=token)
    assert caught.value.reason == "TOKEN"
    assert token == "" or token.strip() not in str(caught.value)
