"""Checks of the files that commands write, before the work begins."""

import argparse
import os
from pathlib import Path

from metanas_client.errors import NotWritable


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the switch to replace existing files."""
    parser.add_argument("--force", action="store_true", help="replace a file that exists")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the file of a model, and the switch to replace it."""
    parser.add_argument(
        "--out", type=Path, default=Path("model.onnx"), help="file to write (model.onnx)"
    )
    add_force(parser)


def check_output(path: Path, *, force: bool) -> None:
    """Check that a file can be written.

    Raises:
        NotWritable: NOT_WRITABLE, or FILE_EXISTS without `force`.
    """
    if path.is_dir():
        raise _not_writable(path, "it is a folder; name a file")
    if not path.parent.is_dir():
        raise _not_writable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _not_writable(path, f"the folder {path.parent} is read-only for this user")
    if path.exists() and not path.is_file():
        raise _not_writable(path, "it is no regular file; name a file")
    if path.exists() and not force:
        message = f"{path} exists already: name another file, or add --force to replace it"
        raise NotWritable("FILE_EXISTS", message)


def _not_writable(path: Path, why: str) -> NotWritable:
    return NotWritable("NOT_WRITABLE", f"cannot write {path}: {why}")
