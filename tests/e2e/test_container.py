"""The container image: its health check against a real server, and its build context."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo import running_server
from metanas.testing import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DIST = "dist"
"""The folder that `make wheels` writes."""
PROBE = ROOT / "docker" / "healthcheck.py"


def probe(variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROBE)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_the_health_check_sees_a_server_that_serves(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoints" / "untrained")
    with running_server(tmp_path / "checkpoints", tmp_path / "log.txt") as address:
        port = address.rpartition(":")[2]
        serving = probe({"METANAS_LISTEN": f"0.0.0.0:{port}"})
    assert (serving.returncode, serving.stdout) == (0, "SERVING\n"), serving.stderr
    gone = probe({"METANAS_LISTEN": f"0.0.0.0:{port}"})
    assert gone.returncode == 1


def copied() -> list[str]:
    """The first parts of all paths that the Dockerfile copies out of the build context."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if re.match(r"COPY (?!--from)", line)]
    return sorted({Path(source).parts[0] for sources in copies for source in sources})


@pytest.mark.parametrize("path", copied())
def test_the_build_context_has_what_is_copied(path: str) -> None:
    let_in = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert f"!{path}" in let_in
    assert path == DIST or (ROOT / path).exists()
