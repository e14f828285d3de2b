"""Traces of a real client and a real server, at a real receiver of OTLP."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from metanas.errors import InvalidInput
from metanas_server.callers.tokens import Role, create
from metanas_server.config import ServerConfig
from metanas_server.errors import StartError
from metanas_server.observation.traces import Traces
from tests.server.calls import LONG, images, parts, spec
from tests.server.collector import Collector, Received, tree
from tests.server.processes import ENVIRONMENT, serving
from tests.server.studio_calls import Studio, studio_of

QUICK = ENVIRONMENT | {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
ADAPTATIONS, MODELS = "metanas.v1.AdaptationService", "metanas.v1.ModelService"
SERVICES = ("mine", "metanas-server")
CLIENT = """
import pathlib
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
import metanas_client

address, collector, token, folder, checkpoint = sys.argv[1:]
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector)))
trace.set_tracer_provider(provider)
with (
    trace.get_tracer("mine").start_as_current_span("mine"),
    metanas_client.Client(address, token=token) as client,
):
    adaptation = client.adapt(pathlib.Path(folder), checkpoint=checkpoint)
    adaptation.result()
    try:
        client.checkpoint("none")
    except metanas_client.NotFound:
        pass
print(adaptation.name)
provider.shutdown()
"""
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    receiver = Collector()
    with receiver.listening():
        yield receiver


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traced") / "data"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A token file, and the token of the caller "somebody" in it."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    return path, create(path, "somebody", Role.USE)


@pytest.fixture(scope="module")
def traced(
    checkpoints: Path, data: Path, collector: Collector, token: tuple[Path, str]
) -> Iterator[Studio]:
    flags = (f"--traces={collector.url}", f"--token-file={token[0]}", "--log-format=json")
    with studio_of(checkpoints, data, *flags, "--access-log", environment=QUICK) as studio:
        yield studio.with_token(token[1])


def log(data: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a log; libraries may write lines that are no JSON."""
    lines = data.with_suffix(".log").read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line[0] == "{" and line[-1] == "\n"]


def test_one_trace_from_the_client_to_the_stored_model(
    traced: Studio, collector: Collector, token: tuple[Path, str], data: Path, photos: Path
) -> None:
    arguments = (traced.server.address, collector.url, token[1], str(photos), "grey")
    name = subprocess.run(
        [sys.executable, "-c", CLIENT, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
        env=QUICK | {"OTEL_SERVICE_NAME": "mine"},
    ).stdout.strip()
    watch, download = f"{ADAPTATIONS}/WatchAdaptation", f"{MODELS}/DownloadModel"
    create, unknown = (
        f"{ADAPTATIONS}/CreateAdaptation",
        "metanas.v1.CheckpointService/GetCheckpoint",
    )
    both = {(service, name) for service in SERVICES for name in (create, watch, download, unknown)}
    expected = both | {("mine", "mine")}
    root, _ = collector.ended(name)
    spans = collector.until(
        lambda now: (
            expected <= {(each.service, each.name) for each in now if each.trace == root.trace}
        )
    )
    [mine] = [each for each in spans if each.name == "mine"]
    stages = {"decode", "adapt", "prune", "tune", "export", "check"}
    calls = tree(mine, spans)
    made = calls[create][create]
    assert set(made) == {"adaptation"}
    assert set(made["adaptation"]) == {"queue", "attempt", "store"}
    assert set(made["adaptation"]["attempt"]) <= stages
    assert {"decode", "adapt", "check"} <= set(made["adaptation"]["attempt"])
    for method in (watch, download, unknown):
        assert calls[method] == {method: {}}
    check_times(root, spans)
    assert "metanas.reason" not in root.attributes
    assert (root.attributes["metanas.checkpoint"], root.attributes["metanas.state"]) == (
        "grey",
        "succeeded",
    )
    [refused] = [
        each for each in spans if each.trace == root.trace and "error.type" in each.attributes
    ]
    assert refused.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert refused.span.status.code == Status.STATUS_CODE_UNSET  # no fault of the server
    assert "somebody" not in str([each.span for each in spans])
    lines = [each for each in log(data) if name.partition("/")[2] in each["message"]]
    assert len(lines) == 3  # accepted, attempted, succeeded
    assert {each["trace_id"] for each in lines} == {root.trace}


def check_times(root: Received, spans: list[Received]) -> None:
    """Check that spans lie within their parents, and the stages one after the other."""
    for each in spans:
        if each.parent == root.id:
            assert root.span.start_time_unix_nano <= each.span.start_time_unix_nano
            assert each.span.end_time_unix_nano <= root.span.end_time_unix_nano
    [attempt] = [each for each in spans if each.parent == root.id and each.name == "attempt"]
    stages = [each.span for each in spans if each.parent == attempt.id]
    stages.sort(key=lambda span: span.start_time_unix_nano)
    for one, next_one in pairwise(stages):
        assert one.end_time_unix_nano == next_one.start_time_unix_nano
    assert stages[-1].end_time_unix_nano == attempt.span.end_time_unix_nano


def test_a_lost_worker_and_a_cancelled_adaptation(
    traced: Studio, collector: Collector, token: tuple[Path, str]
) -> None:
    api = traced.server.api_of(token[1])
    name = api.create(spec(options=LONG), images()).name
    api.until_running(name)
    traced.server.signal_workers(signal.SIGKILL)
    watch = api.watch(name)
    next(each for each in watch if each.progress.attempt == 2)
    api.cancel(name)
    api.end_of(name)
    root, spans = collector.ended(name)
    assert root.attributes["metanas.state"] == "cancelled"
    inside = [each for each in spans if each.parent == root.id]
    inside.sort(key=lambda each: each.span.start_time_unix_nano)
    assert [(each.name, each.attributes.get("error.type")) for each in inside] == [
        ("queue", None),
        ("attempt", "WORKER_LOST"),
        ("queue", None),
        ("attempt", None),
    ]
    assert inside[1].attributes["metanas.device"] == "cpu"
    assert root.span.status.code == Status.STATUS_CODE_UNSET


def test_a_failed_adaptation(
    traced: Studio, collector: Collector, token: tuple[Path, str], data: Path
) -> None:
    api = traced.server.api_of(token[1])
    broken = list(images())
    broken[0].encoded = b"no image"
    sent = parts(spec(), broken)
    metadata = (("traceparent", PARENT), ("authorization", f"Bearer {token[1]}"))
    name = traced.server.api.adaptations.CreateAdaptation(sent, metadata=metadata).adaptation.name
    api.end_of(name)
    root, spans = collector.ended(name)
    assert root.attributes["error.type"] == "IMAGE_FORMAT"
    assert root.span.status.code == Status.STATUS_CODE_ERROR
    call = next(each for each in spans if each.id == root.parent)
    assert f"00-{call.trace}-{call.parent}-01" == PARENT
    assert call.span.kind == Span.SPAN_KIND_SERVER


def test_an_adaptation_after_a_restart(
    checkpoints: Path, tmp_path: Path, collector: Collector
) -> None:
    """Its span and its lines of the log are still in the trace of the call that made it."""
    data, trace = tmp_path / "data", "ab" * 16
    flags = (f"--traces={collector.url}", "--log-format=json")
    sent = parts(spec(options=LONG), images())
    metadata = (("traceparent", f"00-{trace}-{8 * 'cd'}-01"),)
    with serving(checkpoints, data, *flags, environment=QUICK) as server:
        made = server.api.adaptations.CreateAdaptation(sent, metadata=metadata)
        name = made.adaptation.name
        server.api.until_running(name)
        server.kill()
    with serving(checkpoints, data, *flags, environment=QUICK) as server:
        server.api.until_running(name)
        server.api.cancel(name)
        server.api.end_of(name)
        root, _ = collector.ended(name)
        assert server.stop() == 0
    assert (root.trace, root.attributes["metanas.state"]) == (trace, "cancelled")
    support = data / "artefacts"
    assert [each for each in support.rglob("*") if each.is_file()] == []
    lines = [each for each in log(data) if name.partition("/")[2] in each["message"]]
    assert len(lines) == 4  # accepted, attempted, attempted, cancelled
    assert {each["trace_id"] for each in lines} == {trace}


def test_requests_to_the_studio(traced: Studio, collector: Collector, data: Path) -> None:
    assert traced.call("/api/models/x", headers={"traceparent": PARENT}).status == 404
    for sent in (PARENT[:-1] + "0", "rubbish"):  # the first is not sampled by its caller
        assert traced.call("/api/server", headers={"traceparent": sent}).status == 200

    def routes(spans: list[Received]) -> list[tuple[Any, ...]]:
        keys = ("http.route", "http.response.status_code", "error.type")
        found = [tuple(each.attributes.get(key) for key in keys) for each in spans]
        return sorted(each for each in found if each[0])

    expected = [("/api/models/{id}", "404", "UNKNOWN_MODEL"), ("/api/server", "200", None)]
    spans = collector.until(lambda now: routes(list(now)) == expected)
    [found] = [each for each in spans if each.name == "GET /api/models/{id}"]
    assert found.parent == PARENT.split("-")[2]
    [entry] = [each for each in log(data) if each.get("reason") == "UNKNOWN_MODEL"]
    assert entry["trace_id"] == PARENT.split("-")[1]


def test_a_collector_that_is_down(checkpoints: Path, tmp_path: Path) -> None:
    """Adaptations go on; the log has one line when the outage begins and one when it ends."""
    collector = Collector()
    collector.reserve()
    traces, file = f"--traces={collector.url}", tmp_path / "data"
    with serving(checkpoints, file, traces, "--log-format=json", environment=QUICK) as server:
        server.api.serves()

        def outages() -> list[str]:
            texts = [each["message"] for each in log(file)]
            return [each for each in texts if "the collector" in each or "opentelemetry" in each]

        deadline = time.monotonic() + 120
        while not outages():
            assert time.monotonic() < deadline
            server.api.serves()
        server.api.serves()
        assert len(outages()) == 1
        with collector.listening():
            server.api.serves()
            collector.until(lambda now: any(each.name == "adaptation" for each in now))
            while len(outages()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        server.api.serves()
        assert server.stop() == 0
    texts = [each["message"] for each in log(file)]
    assert [each for each in texts if "Transient error" in each] == []


def test_nothing_is_imported_without_traces() -> None:
    code = "import sys, metanas_server.app, metanas_client, metanas_client.transport; "
    code += "print([each for each in sys.modules if each.startswith('opentelemetry')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert ServerConfig().traces is None


@pytest.mark.parametrize(
    "text", ["localhost:4317", "http://host", "ftp://host:1", "http://a b:1", "http://host:65536"]
)
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(InvalidInput, match="must be http"):
        ServerConfig(traces=text)


def test_a_collector_that_never_answers(checkpoints: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        traces = f"--traces=http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(checkpoints, tmp_path / "data", traces, environment=QUICK) as server:
            server.api.serves()
            assert server.stop() == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
    ],
)
def test_a_wrong_variable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=r"--traces cannot be used: .+ variables OTEL_\*") as error:
        Traces("https://127.0.0.1:1")
    assert error.value.reason == "TRACES_INVALID"


def test_traces_that_a_variable_disables(checkpoints: Path, tmp_path: Path) -> None:
    disabled = QUICK | {"OTEL_SDK_DISABLED": "true"}
    flags = ("--traces=http://127.0.0.1:1", "--log-format=json")
    with serving(checkpoints, tmp_path / "data", *flags, environment=disabled) as server:
        server.api.serves()
