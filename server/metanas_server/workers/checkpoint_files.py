"""The files of the checkpoints, for workers on hosts that may not have them."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from metanas.spec.card import CARD_FILE
from metanas.spec.universal import UNIVERSAL_FILE
from metanas_server.workers.protocol import Copy


def read_files(root: Path) -> dict[str, bytes]:
    """Return the contents of the files of all checkpoints, by their path below the folder."""
    folders = [path.parent for path in root.glob(f"*/{CARD_FILE}")]
    paths = [path for folder in folders for path in folder.iterdir() if path.is_file()]
    paths += root.glob(UNIVERSAL_FILE)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(paths)}


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return a SHA-256 of all these files and their paths."""
    lines = (f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def folder_with(root: Path, copy: Copy | None) -> Iterator[Path]:
    """Yield a folder with the checkpoints; use it inside the context only.

    It is `root`, unless the copy says that the files there are not those of the front.
    """
    if copy is None or digest_of(read_files(root)) == copy.digest:
        yield root
        return
    with TemporaryDirectory(prefix="metanas-checkpoints-") as name:
        for path, data in copy.read().items():
            target = Path(name, path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)
        yield Path(name)
