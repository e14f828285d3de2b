"""Packages for the tests of runtimes, installed into folders of their own."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def from_pypi(packages: Sequence[str], folder: Path) -> None:
    """Install packages without their dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", f"--target={folder}", *packages]
    _run(command, folder, f"needs {' '.join(packages)} from PyPI")


def from_npm(packages: Sequence[str], folder: Path) -> None:
    """Install packages with their dependencies, below `node_modules`."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: install Node 20 or newer")
    # the script of onnxruntime-node fetches CUDA
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    _run([*command, *packages], folder, f"needs {' '.join(packages)} from npm")


def _run(command: Sequence[str], folder: Path, need: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{need}: {done.stderr.strip()[-200:]}")
