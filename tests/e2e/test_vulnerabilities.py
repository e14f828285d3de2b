"""The audit of the pinned packages, with a service of advisories in this process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AUDIT = ROOT / "deploy" / "audit.py"
PINS = "jinja2==3.1.6\nsix==1.17.0\n"
NOT_RUN = "audit not run: no advisory service reachable"
ADVISORY = {
    "id": "PYSEC-TEST-1",
    "modified": "2026-01-01T00:00:00Z",
    "summary": "for the test",
    "affected": [{"package": {"name": "six", "ecosystem": "PyPI"}, "versions": ["1.17.0"]}],
}


class Service(BaseHTTPRequestHandler):
    """Answer as OSV does: six has an advisory."""

    affected = "six"

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = [ADVISORY] if query["package"]["name"] == self.affected else []
        self.answer(json.dumps({"vulns": found}))

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (name of the base)
        pass


class Harmless(Service):
    """Answer as OSV does: nothing is affected."""

    affected = ""


class Page(Service):
    """Answer with a page, as the portal of a network does."""

    def do_POST(self) -> None:
        self.answer("<html>")


class Other(Service):
    """Answer in another protocol."""

    def do_POST(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n")


@contextmanager
def service(kind: type[Service]) -> Iterator[str]:
    """Run a service; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audit(url: str, folder: Path) -> tuple[int, str]:
    """Return the exit code and the output of the audit."""
    pytest.importorskip("pip_audit", reason="needs pip-audit: make install")
    pins = folder / "pins.txt"
    pins.write_text(PINS)
    ended = subprocess.run(
        [sys.executable, str(AUDIT), str(pins)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OSV_URL": url, "no_proxy": "*", "HOME": str(folder)},
    )
    return ended.returncode, ended.stdout


def test_a_vulnerable_pin_fails(tmp_path: Path) -> None:
    with service(Service) as url:
        code, text = audit(url, tmp_path)
    assert code == 1
    assert "PYSEC-TEST-1" in text
    assert "jinja2" not in text


def test_pins_without_advisories_pass(tmp_path: Path) -> None:
    with service(Harmless) as url:
        code, text = audit(url, tmp_path)
    assert (code, "No known vulnerabilities found" in text) == (0, True), text


@pytest.mark.parametrize("kind", [Page, Other, None])
def test_without_a_service_the_audit_says_that_it_has_not_run(
    tmp_path: Path, kind: type[Service] | None
) -> None:
    with service(kind or Harmless) as url:
        address = url if kind else "http://127.0.0.1:9/v1/query"
        code, text = audit(address, tmp_path)
    assert code == 0
    assert text.startswith(NOT_RUN)
    assert "No known" not in text


def test_the_pins_of_the_project_can_be_audited() -> None:
    """`--strict` fails at a line that is no pin."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and line.count("==") != 1] == []
