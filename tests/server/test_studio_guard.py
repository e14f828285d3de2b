"""The studio against pages of other sites, callers without a token, and its own files."""

import gzip
import hashlib
import http.client
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metanas_server.callers.tokens import Role, create, revoke
from metanas_server.studio.routes import RUNTIME, STATIC, WASM
from tests.server.studio_calls import SECONDS, Studio, studio_of, support

OTHER = "http://other.example"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A token file with a token of each role; "other" is another caller."""
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    named = {"use": Role.USE, "read": Role.READ, "other": Role.USE}
    return path, {name: create(path, name, role) for name, role in named.items()}


@pytest.fixture(scope="module")
def audit(data: Path) -> Path:
    return data.with_name("audit.jsonl")


@pytest.fixture(scope="module")
def studio(
    checkpoints: Path, data: Path, secrets: tuple[Path, dict[str, str]], audit: Path
) -> Iterator[Studio]:
    flags = (f"--token-file={secrets[0]}", f"--audit-log={audit}", "--grace=0")
    with studio_of(checkpoints, data, *flags) as running:
        yield running


def test_creations_and_refusals_are_audited(
    studio: Studio, secrets: tuple[Path, dict[str, str]], audit: Path, tmp_path: Path
) -> None:
    before = len(audit.read_text().splitlines())
    name = studio.with_token(secrets[1]["use"]).create(support(tmp_path)).json["name"]
    studio.with_token(secrets[1]["read"]).create(support(tmp_path))
    studio.call("/api/server")
    studio.call(f"/api/{name}/events")
    lines = [json.loads(line) for line in audit.read_text().splitlines()[before:]]
    assert [(each["caller"], each["call"], each["resource"], each["result"]) for each in lines] == [
        ("use", "AdaptationService/CreateAdaptation", name, "OK"),
        ("read", "AdaptationService/CreateAdaptation", "", "ROLE_INSUFFICIENT"),
        ("", "CheckpointService/ListCheckpoints", "", "UNAUTHENTICATED"),
        ("", "AdaptationService/WatchAdaptation", name, "UNAUTHENTICATED"),
    ]


def test_a_revoked_token_ends_its_events(
    studio: Studio, secrets: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    token = create(secrets[0], "leaving", Role.USE)
    leaving = studio.with_token(token)
    options = {"steps": 500, "tuning_steps": 500}
    name = leaving.create(support(tmp_path), options=options).json["name"]
    connection = http.client.HTTPConnection(studio.address, timeout=SECONDS)
    headers = {"authorization": f"Bearer {token}"}
    connection.request("GET", f"/api/{name}/events", headers=headers)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"event: adaptation")
    revoke(secrets[0], "leaving", None)
    assert b"UNAUTHENTICATED" in answer.read()
    connection.close()


def test_a_caller_who_leaves_during_an_upload(
    studio: Studio, secrets: tuple[Path, dict[str, str]], audit: Path
) -> None:
    before = len(audit.read_text().splitlines())
    studio.with_token(secrets[1]["use"]).leave_during_upload()
    while len(lines := audit.read_text().splitlines()) == before:
        time.sleep(0.01)
    assert json.loads(lines[-1])["result"] == "CANCELLED"


def test_a_token_is_needed_for_the_api_alone(
    studio: Studio, secrets: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    tokens = secrets[1]
    assert studio.call("/").status == 200
    assert studio.call("/api/server").json["reason"] == "UNAUTHENTICATED"
    assert studio.with_token("wrong").call("/api/server").status == 401
    assert studio.with_token(tokens["read"]).call("/api/server").status == 200
    refused = studio.with_token(tokens["read"]).create(support(tmp_path))
    assert (refused.status, refused.json["reason"]) == (403, "ROLE_INSUFFICIENT")


def test_callers_do_not_see_each_other(
    studio: Studio, secrets: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    mine, other = (studio.with_token(secrets[1][name]) for name in ("use", "other"))
    name = mine.create(support(tmp_path)).json["name"]
    assert mine.call(f"/api/{name}").status == 200
    assert other.call(f"/api/{name}").status == 404
    assert other.call(f"/api/{name}/events").status == 404
    assert other.call(f"/api/{name}/cancel", method="POST").status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": OTHER},
        {"origin": "null"},
        {"origin": "http://[x"},
    ],
)
def test_requests_from_other_sites_are_refused(studio: Studio, headers: dict[str, str]) -> None:
    answer = studio.call("/api/adaptations", method="POST", headers=headers)
    assert (answer.status, answer.json["reason"]) == (403, "CROSS_SITE")


@pytest.mark.parametrize("own", [{"sec-fetch-site": "same-origin"}, {"origin": "http://{}"}, {}])
def test_requests_from_the_page_pass(studio: Studio, own: dict[str, str]) -> None:
    headers = {name: value.format(studio.address) for name, value in own.items()}
    answer = studio.call("/api/adaptations", method="POST", headers=headers)
    assert answer.json["reason"] == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "host", ["other.example", "other.example:80", "127.0.0.1.other.example", "", "127.0.0.1:[80"]
)
def test_other_names_of_this_machine_are_refused(studio: Studio, host: str) -> None:
    answer = studio.call("/", headers={"host": host})
    assert (answer.status, answer.json["reason"]) == (403, "HOST_UNKNOWN")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080"])
def test_own_names_of_this_machine_pass(studio: Studio, host: str) -> None:
    assert studio.call("/", headers={"host": host}).status == 200


@pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/api/server", "/nothing"])
def test_answers_are_locked_down(studio: Studio, path: str) -> None:
    headers = studio.call(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_page_loads_its_own_files_only() -> None:
    own = [path for path in STATIC.rglob("*") if path.suffix in (".html", ".css", ".js")]
    links = {link for path in own for link in re.findall(r"https?://[^\s'\")]+", path.read_text())}
    assert links <= {"http://www.w3.org/2000/svg"}


def test_files_outside_of_the_page_are_not_served(studio: Studio) -> None:
    for path in ("/static/../routes.py", "/static/%2e%2e/routes.py", "/static/js"):
        assert studio.call(path).status == 404


def test_the_runtime_is_that_of_its_package(studio: Studio) -> None:
    noted = re.findall(r"`([0-9a-f]{64})`", (STATIC / RUNTIME / "README.md").read_text())
    answer = studio.call(f"/static/{RUNTIME}/{WASM}")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == "application/wasm"
    script = (STATIC / RUNTIME / "ort.wasm.bundle.min.mjs").read_bytes()
    original = script + b"//# sourceMappingURL=ort.wasm.bundle.min.mjs.map\n"
    digests = [
        hashlib.sha256(data).hexdigest() for data in (original, gzip.decompress(answer.body))
    ]
    assert digests == noted
