"""Requests to the studio of a real server in its metrics and in its access log."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metanas_server.callers.tokens import Role, create
from tests.server.scrapes import Samples, until, url_of
from tests.server.studio_calls import Studio, studio_of, support

SECONDS = "metanas_http_request_seconds_count"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A token file, and the token of the caller "one" in it."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    return path, create(path, "one", Role.USE)


@pytest.fixture(scope="module")
def studio(checkpoints: Path, data: Path, secret: tuple[Path, str]) -> Iterator[Studio]:
    limits = ("--max-jobs-per-caller=1", "--max-image-bytes=5000")
    flags = ("--metrics=0", "--access-log", "--log-format=json", f"--token-file={secret[0]}")
    with studio_of(checkpoints, data, *flags, *limits, "--grace=0") as running:
        yield running


@pytest.fixture
def one(studio: Studio, secret: tuple[Path, str]) -> Studio:
    return studio.with_token(secret[1])


def accesses(data: Path, count: int, **fields: object) -> list[dict[str, Any]]:
    """Wait for so many lines of the access log with these fields; return them."""
    deadline = time.monotonic() + 120
    while True:
        text = data.with_suffix(".log").read_text(encoding="utf-8")
        entries = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        found = [each for each in entries if fields.items() <= each.items()]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, entries
        time.sleep(0.02)


def has(samples: Samples, expected: dict[tuple[str, str], int]) -> bool:
    """Return True if the requests by route and status are so many."""
    found = (samples.get(SECONDS, route=route, status=code) for route, code in expected)
    return list(found) == list(expected.values())


def test_an_adaptation_is_counted_by_route_and_status(
    studio: Studio, one: Studio, data: Path, tmp_path: Path
) -> None:
    name = one.create(support(tmp_path)).json["name"]
    ended = one.follow(name.partition("/")[2])[-1][1]
    for path in (name, name, ended["model"], f"{ended['model']}/model.onnx"):
        assert one.call(f"/api/{path}").status == 200
    expected = {
        ("POST /api/adaptations", "201"): 1,
        ("GET /api/adaptations/{id}", "200"): 2,
        ("GET /api/adaptations/{id}/events", "200"): 1,
        ("GET /api/models/{id}", "200"): 1,
        ("GET /api/models/{id}/model.onnx", "200"): 1,
    }
    until(url_of(studio.server), lambda now: has(now, expected))
    [stream] = accesses(data, 1, method="GET /api/adaptations/{id}/events")
    [create] = accesses(data, 1, method="POST /api/adaptations", code="201")
    assert stream["seconds"] > 0
    assert stream["caller"] == create["caller"] == "one"
    accepted = [each for each in accesses(data, 1) if "accepted from" in each["message"]]
    assert [each["request_id"] for each in accepted] == [create["request_id"]]


def test_refusals_have_their_caller_and_reason(studio: Studio, one: Studio, data: Path) -> None:
    assert studio.call("/api/server").status == 401
    assert one.create([("a", b"x" * 6000), ("b", b"x")]).status == 413
    assert one.post(b"rubbish").status == 400
    crossed = one.call("/api/adaptations", method="POST", headers={"sec-fetch-site": "cross-site"})
    assert crossed.status == 403
    callers = {"UNAUTHENTICATED": "", "CROSS_SITE": "", "IMAGE_TOO_LARGE": "one"}
    callers["UPLOAD_MALFORMED"] = "one"
    until(
        url_of(studio.server),
        lambda now: all(
            now.get("metanas_caller_refusals_total", caller=caller, reason=reason) == 1
            for reason, caller in callers.items()
        ),
    )
    [entry] = accesses(data, 1, reason="UNAUTHENTICATED")
    assert (entry["code"], entry["caller"]) == ("401", "ipv4:127.0.0.1")
    [entry] = accesses(data, 1, reason="UPLOAD_MALFORMED")
    assert (entry["code"], entry["caller"]) == ("400", "one")


def test_a_full_quota_is_counted(studio: Studio, one: Studio, tmp_path: Path) -> None:
    studio.server.signal_workers(signal.SIGSTOP)  # the adaptation does not end meanwhile
    name = one.create(support(tmp_path), seed=1).json["name"]
    again = one.create(support(tmp_path), seed=2)
    studio.server.signal_workers(signal.SIGCONT)
    assert (again.status, again.json["reason"]) == (429, "CALLER_QUOTA")
    one.follow(name.partition("/")[2])
    by_caller = {"caller": "one", "reason": "CALLER_QUOTA"}
    by_route = {"method": "POST /api/adaptations", "reason": "CALLER_QUOTA"}
    until(
        url_of(studio.server),
        lambda now: (
            now.get("metanas_caller_refusals_total", **by_caller) == 1
            and now.get("metanas_refusals_total", **by_route) == 1
            and has(now, {("POST /api/adaptations", "429"): 1})
        ),
    )


def test_requests_have_the_id_that_was_sent(one: Studio, data: Path) -> None:
    for sent in ("mine-1", "two words"):
        one.call("/api/server", headers={"x-request-id": sent})
    ids = [each["request_id"] for each in accesses(data, 2, method="GET /api/server", code="200")]
    assert ids[0] == "mine-1"
    assert len(ids[1]) == 16


def test_there_are_as_many_routes_as_templates(studio: Studio, one: Studio) -> None:
    for i in range(5):
        for path in (f"/api/models/{i}", f"/guess/{i}", f"/static/{i}", f"/static/js/{i}.js"):
            assert one.call(path).status == 404
        one.call("/static/js/main.js", method=f"GUESS{i}")
        one.call("/", method=f"GUESS{i}")
    expected = {("GET /api/models/{id}", "404"): 5, ("/static", "404"): 10, ("/static", "405"): 5}
    expected |= {("unknown", "404"): 5, ("unknown", "405"): 5}
    until(url_of(studio.server), lambda now: has(now, expected))


def test_a_caller_who_leaves_is_counted(studio: Studio, one: Studio, data: Path) -> None:
    one.leave_during_upload()
    left = {("POST /api/adaptations", "499"): 1}
    until(url_of(studio.server), lambda now: has(now, left))
    route = {"route": "POST /api/adaptations"}
    in_progress = "metanas_http_requests_in_progress"
    until(url_of(studio.server), lambda now: now.get(in_progress, **route) == 0)
    [entry] = accesses(data, 1, code="499")
    assert entry["caller"] == "one"
