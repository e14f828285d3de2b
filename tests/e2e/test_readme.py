"""Run every command and program of the README and of the first page of the documentation.

Blocks marked `bash` and `python` run in their order. A block that starts the server runs beside
the others. `make` runs with `--dry-run`: other tests cover the targets.
"""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:50051"
NEEDED = (
    "Makefile",
    "checkpoints",
    "client",
    "configs",
    "constraints.txt",
    "data",
    "examples",
    "meta_checkpoints",
    "protos",
    "pyproject.toml",
    "runtime",
    "server",
)
PAGES = ("README.md", "docs/getting-started.md")
PROGRAMS = {"metanas-server": "metanas_server", "metanas": "metanas_client"}


def blocks(text: str) -> list[tuple[str, str]]:
    """Return (language, content) of all blocks to run."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def prepare(folder: Path) -> dict[str, str]:
    """Make a folder that looks like a clone after installation; return the environment."""
    for name in NEEDED:
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    programs = folder / "bin"
    programs.mkdir()
    # no link for Python: it would look for the packages of its environment beside the link
    for name, start in {"python": "", **{n: f" -m {m}" for n, m in PROGRAMS.items()}}.items():
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}"{start} "$@"\n')
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def run(language: str, content: str, folder: Path, environment: dict[str, str]) -> None:
    if language == "python":
        command = [sys.executable, "-c", content]
    else:
        asked = re.sub(r"^make ", "make --dry-run ", content, flags=re.MULTILINE)
        command = ["bash", "-euo", "pipefail", "-c", asked]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"


@contextmanager
def background(content: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a server's command until the end of the block; begins when its ready line is there."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {content.strip()}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() != "", "the server has ended before it was ready"
            rest = threading.Thread(target=server.stdout.read, daemon=True)
            rest.start()
            yield
        finally:
            server.terminate()
            server.wait()
            rest.join()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_everything_on_a_first_page_runs(tmp_path: Path, page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace(ADDRESS, free := free_address())
    environment = {**prepare(tmp_path), "METANAS_SERVER": free}
    everything = blocks(text)
    start = next(i for i, (_, content) in enumerate(everything) if "metanas-server" in content)
    for language, content in everything[:start]:
        run(language, content, tmp_path, environment)
    with background(everything[start][1], tmp_path, environment):
        for language, content in everything[start + 1 :]:
            run(language, content, tmp_path, environment)
