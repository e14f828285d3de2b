"""Atomic writing of files. This module needs neither NumPy nor Pillow."""

import os
import uuid
from pathlib import Path

TEMPORARY = ".unfinished-"
"""Prefix of the name of a file while it is written."""
MODE = 0o666
"""Permissions of a new file before the system applies the umask."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves either the old content or the new."""
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
