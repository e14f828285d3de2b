"""Metrics of a real server, read over HTTP as Prometheus does."""

import asyncio
import os
import signal
import socket
import struct
import threading
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from metanas_server.errors import StartError
from metanas_server.observation.endpoint import metrics_endpoint
from metanas_server.observation.metrics import Metrics
from tests.server.calls import LONG, Api, images, refused, spec
from tests.server.processes import ServerProcess, run
from tests.server.scrapes import Samples, until, url_of

ADAPTATIONS = "metanas.v1.AdaptationService"
ENDLESS = AdaptationOptions(steps=500, tuning_steps=500, patience=0)
"""Options of an adaptation that does not stop early: `LONG` may, before a snapshot shows it."""


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--metrics", "0")


def counts(name: str, labels: dict[str, str], samples: Samples, expected: int = 1) -> bool:
    return samples.get(name, **labels) == expected


def test_metrics_are_local_by_default(server: ServerProcess) -> None:
    assert url_of(server).startswith("http://127.0.0.1:")


def test_an_adaptation_is_counted(server: ServerProcess, api: Api) -> None:
    api.serves()
    for called in ("CreateAdaptation", "WatchAdaptation"):
        # A call is counted after its caller has the answer.
        labels = {"method": f"{ADAPTATIONS}/{called}", "code": "OK"}
        until(url_of(server), partial(counts, "metanas_rpc_seconds_count", labels))
        method = {"method": labels["method"]}
        until(url_of(server), partial(counts, "metanas_rpcs_in_progress", method, expected=0))
    samples = Samples(url_of(server))
    assert samples.get("metanas_queue_wait_seconds_count") == 1
    assert samples.get("metanas_adaptation_seconds_count", state="succeeded") == 1
    assert samples.get("metanas_stage_seconds_count", stage="export") == 1
    assert samples.get("metanas_stage_seconds_sum", stage="adapt") > 0


def test_requests_that_reuse_answers_are_counted(server: ServerProcess, api: Api) -> None:
    made = api.end_of(api.create(spec(seed=7), images()).name)
    for _ in range(2):
        assert api.create(spec(seed=7, reuse=True), images()).name == made.name
    samples = Samples(url_of(server))  # counted before the answer
    assert samples.get("metanas_reused_adaptations_total") == 2


def test_memory_files_and_workers_are_measured(server: ServerProcess, api: Api) -> None:
    api.serves()
    worker = {"worker": "0", "device": "cpu"}
    samples = until(url_of(server), partial(counts, "metanas_worker_ready", worker))
    assert samples.get("metanas_worker_memory_bytes", **worker) > 2**20
    assert samples.get("process_resident_memory_bytes") > 2**20
    assert samples.get("metanas_store_bytes", kind="records") > 0
    assert samples.get("metanas_disk_free_bytes") > 0


def test_refusals_are_counted_by_reason(server: ServerProcess, api: Api) -> None:
    refused(api.get, "adaptations/0000000000000000")
    refused(api.create, spec(checkpoint="checkpoints/none"), images())
    unknown: Any = server.channel.unary_unary("/metanas.v1.AdaptationService/Guess")
    with pytest.raises(grpc.RpcError):
        unknown(b"")
    for method, reason in (("Get", "UNKNOWN_ADAPTATION"), ("Create", "UNKNOWN_CHECKPOINT")):
        labels = {"method": f"{ADAPTATIONS}/{method}Adaptation", "reason": reason}
        # A refusal is counted after its caller has it.
        until(url_of(server), partial(counts, "metanas_refusals_total", labels))
    labels = {"method": "unknown", "code": "UNIMPLEMENTED"}
    until(url_of(server), partial(counts, "metanas_rpc_seconds_count", labels))


def test_the_queue_and_the_death_of_a_worker(server: ServerProcess, api: Api) -> None:
    url = url_of(server)
    worker = {"worker": "0", "device": "cpu"}
    name = api.create(spec(options=ENDLESS), images()).name
    until(
        url,
        lambda now: (
            now.get("metanas_worker_adaptations", **worker) == 1
            and now.get("metanas_adaptations", state="running") == 1
        ),
    )
    os.kill(server.workers()[0], signal.SIGKILL)
    # The job of a dead worker runs alone; a second one has to wait.
    # Gauges of the queue and of the workers belong to two moments of a scrape.
    second = api.create(spec(options=ENDLESS), images()).name
    until(url, lambda now: now.get("metanas_worker_restarts_total") == 1)
    until(
        url,
        lambda now: (
            now.get("metanas_worker_adaptations", **worker) == 1
            and now.get("metanas_adaptations", state="running") == 1
            and now.get("metanas_adaptations", state="queued") == 1
            and now.get("metanas_queue_oldest_seconds") > 0
        ),
    )
    for each in (name, second):
        api.cancel(each)
        api.end_of(each)
    until(
        url,
        lambda now: (
            now.get("metanas_adaptation_failures_total", reason="CANCELLED") == 2
            and now.get("metanas_adaptations", state="running") == 0
            and now.get("metanas_adaptations", state="queued") == 0
        ),
    )


def test_a_caller_that_goes_away_is_counted(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    watch = api.watch(name)
    next(watch)
    method = f"{ADAPTATIONS}/WatchAdaptation"
    until(url_of(server), lambda now: now.get("metanas_rpcs_in_progress", method=method) == 1)
    watch.cancel()  # type: ignore[attr-defined]
    labels = {"method": method, "code": "CANCELLED"}
    until(url_of(server), lambda now: now.get("metanas_rpc_seconds_count", **labels) == 1)
    api.cancel(name)


@pytest.fixture
def config(checkpoints: Path, tmp_path: Path) -> ServerConfig:
    return ServerConfig(
        checkpoints=checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        metrics="0",
        devices=("cpu",),
        threads=1,
    )


async def test_a_blocked_event_loop_is_seen(
    config: ServerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Scrapes are answered while the loop is blocked, and the lag is counted afterwards."""
    async with Server(config) as server:
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        stalled = (lambda now: now.get("metanas_event_loop_stall_seconds") > 1.5,)
        thread = threading.Thread(target=until, args=(url, *stalled))
        thread.start()
        thread.join()  # on the loop, which cannot do anything else meanwhile
        lag = "metanas_event_loop_lag_seconds_sum"
        await asyncio.to_thread(until, url, lambda now: now.get(lag) > 1.5)
        calm = (lambda now: now.get("metanas_event_loop_stall_seconds") < 1.5,)
        await asyncio.to_thread(until, url, *calm)
    assert "the event loop was blocked for" in caplog.text


async def test_callers_that_break_off_leave_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with metrics_endpoint("127.0.0.1", 0, Metrics().registry) as port:
        for sent in (b"", b"\0" * 100, b"GET /metrics HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as caller:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                caller.sendall(sent)
        url = f"http://127.0.0.1:{port}/metrics"
        assert (await asyncio.to_thread(Samples, url)).get("process_open_fds") > 0
        while any("process_request" in each.name for each in threading.enumerate()):
            await asyncio.sleep(0)
    assert capfd.readouterr().err == ""


def test_metrics_are_off_by_default() -> None:
    assert ServerConfig().metrics_address is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("0.0.0.0:9464", ("0.0.0.0", 9464)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert ServerConfig(metrics=text).metrics_address == address


@pytest.mark.parametrize("text", ["", "host", "host:", "127.0.0.1:65536", "70000"])
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(StartError) as caught:
        ServerConfig(metrics=text)
    assert caught.value.reason == "ADDRESS_INVALID"


def test_a_port_in_use(checkpoints: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(checkpoints, tmp_path / "data", "--metrics", port)
    assert ended.returncode == 2
    assert "choose another address (PORT_IN_USE)" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
