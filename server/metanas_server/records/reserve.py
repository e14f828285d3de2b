"""The reserve: a file whose removal makes room for a deletion on a full disk."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RESERVE_BYTES = 2**20  # room on a full disk for the deletion of a record


@dataclass(frozen=True)
class Reserve:
    """The file `reserve` beside an SQLite database."""

    path: Path

    def fill(self) -> None:
        """Write the file if there is room for it."""
        with suppress(OSError):
            if not self.path.exists():
                self.path.write_bytes(os.urandom(RESERVE_BYTES))  # a hole takes no room

    def release(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
