"""The revision of the code: that of its own checkout, and of no other."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from metanas.util import provenance
from metanas.util.provenance import machine, revision

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C"]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The module in a repository that does not know it yet."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "metanas").mkdir()
    (tmp_path / "notes.txt").write_text("of somebody else")
    shutil.copy(Path(provenance.__file__), tmp_path / "metanas" / "provenance.py")
    commit(tmp_path, "notes.txt")
    return tmp_path


def commit(folder: Path, name: str) -> None:
    subprocess.run([*GIT, str(folder), "add", name], check=True)
    subprocess.run([*GIT, str(folder), "commit", "-qm", name], check=True)


def told(folder: Path) -> str | None:
    found: str | None = runpy.run_path(str(folder / "metanas" / "provenance.py"))["revision"]()
    return found


def test_the_revision_of_a_checkout(copied: Path) -> None:
    assert told(copied) is None  # installed into a folder of another repository
    commit(copied, "metanas")
    head = subprocess.run(
        [*GIT, str(copied), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert told(copied) == head
    (copied / "notes.txt").write_text("changed")
    assert told(copied) == f"{head}-dirty"


def test_what_is_told_of_the_machine() -> None:
    assert "core" in machine()
    assert revision() is revision()
