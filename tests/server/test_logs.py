"""The log of a real server: JSON, levels, request ids, and the access log."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from metanas_protos.v1.adaptation_service_pb2 import GetAdaptationRequest
from metanas_server.config import parse
from metanas_server.errors import StartError
from metanas_server.observation.logs import JsonLines
from tests.server.calls import Api, images, parts, refused, spec
from tests.server.processes import ServerProcess, serving

ADAPTATIONS = "metanas.v1.AdaptationService"


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--log-format=json", "--access-log")


def lines(data: Path) -> list[dict[str, Any]]:
    """All lines of the log of the server with this data folder; each is JSON."""
    text = data.with_suffix(".log").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def accesses(data: Path, method: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the last lines of a method; a refusal is logged after its caller has it."""
    while True:
        found = [each for each in lines(data) if each.get("method") == f"{ADAPTATIONS}/{method}"]
        if len(found) >= count:
            return found[-count:]


def test_the_lines_of_a_call_have_its_request_id(api: Api, data: Path) -> None:
    metadata = (("x-request-id", "mine-1"),)
    create = api.adaptations.CreateAdaptation
    made = create(parts(spec(), images()), metadata=metadata).adaptation
    api.end_of(made.name)
    [accepted] = [each for each in lines(data) if "accepted from" in each["message"]]
    [access] = accesses(data, "CreateAdaptation")
    assert accepted["request_id"] == access["request_id"] == "mine-1"
    assert (access["level"], access["logger"]) == ("info", "metanas_server.access")
    assert (access["code"], access["caller"]) == ("OK", "ipv4:127.0.0.1")
    assert access["seconds"] > 0
    # An attempt belongs to no call: it can begin because another adaptation has ended.
    attempts = [each for each in lines(data) if "attempt 1 on" in each["message"]]
    assert [each for each in attempts if "request_id" in each] == []
    assert attempts


def test_calls_without_a_usable_id_get_a_new_one(api: Api, data: Path) -> None:
    for sent in ((), (("x-request-id", "two words"),), (("x-request-id", "x" * 129),)):
        with pytest.raises(grpc.RpcError):
            api.adaptations.GetAdaptation(GetAdaptationRequest(name="none"), metadata=sent)
    entries = accesses(data, "GetAdaptation", 3)
    assert len({each["request_id"] for each in entries}) == 3
    assert {len(each["request_id"]) for each in entries} == {16}


def test_refusals_have_their_reason(api: Api, data: Path) -> None:
    refused(api.cancel, "adaptations/0000000000000000")
    [entry] = accesses(data, "CancelAdaptation")
    assert (entry["code"], entry["reason"]) == ("NOT_FOUND", "UNKNOWN_ADAPTATION")


def test_health_checks_are_not_logged(server: ServerProcess, api: Api, data: Path) -> None:
    next(server.health())
    refused(api.cancel, "adaptations/0000000000000000")
    accesses(data, "CancelAdaptation", 2)
    assert [each for each in lines(data) if "Health" in each["message"]] == []


def test_the_level_and_the_default_format(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "quiet", "--log-level=warning") as server:
        server.api.serves()
    assert (tmp_path / "quiet.log").read_text(encoding="utf-8") == ""
    with serving(checkpoints, tmp_path / "text") as server:
        server.api.serves()
    text = (tmp_path / "text.log").read_text(encoding="utf-8")
    assert " INFO metanas_server.jobs.manager adaptation " in text
    assert "metanas_server.access" not in text


def test_a_traceback_is_one_line() -> None:
    try:
        int("ä\nb")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("here", logging.ERROR, "", 1, "failed: %s", ("\n",), error)
    line = JsonLines().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert entry["message"] == "failed: \n"
    assert entry["exception"].startswith("Traceback")


@pytest.mark.parametrize("flag", ["--log-level=loud", "--log-format=xml"])
def test_unknown_values(flag: str) -> None:
    with pytest.raises(StartError, match="must be one of"):
        parse([flag], {})
