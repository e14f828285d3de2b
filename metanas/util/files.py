"""Write files whole or not at all."""

import os
import uuid
from pathlib import Path

TEMPORARY = ".unfinished-"
"""First part of the name of a file that is being written."""
MODE = 0o666
"""Permissions of a new file, from which the system takes away those of the umask."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves either the old content or the new.

    The file gets the permissions that the umask of the process leaves.
    """
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
