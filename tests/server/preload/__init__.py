"""Libraries for LD_PRELOAD that give a process a clock or a disk with faults."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def build(name: str, folder: Path) -> Path:
    """Compile the library `name`.c into a folder; skip the test without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler; run: apt install gcc")
    library = folder / f"{name}.so"
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([compiler, *flags, str(FOLDER / f"{name}.c"), "-ldl", "-lpthread"], check=True)
    library.chmod(0o755)  # other users load it, too
    return library


class HostClock:
    """The clock of processes, which a test can set wrong."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into a folder that the processes can read."""
        self._offset = folder / "offset"
        self.environment = {
            "LD_PRELOAD": str(build("clock", folder)),
            "CLOCK_OFFSET": str(self._offset),
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let the clock be wrong by these seconds from now on."""
        arrived = self._offset.with_suffix(".new")
        arrived.write_text(str(seconds), encoding="ascii")
        arrived.chmod(0o644)
        arrived.replace(self._offset)


class ReadOnlyDisk:
    """A folder that a test can make read-only for running processes."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Compile the library into a folder outside of `root`."""
        self._flag = folder / "read-only"
        self.environment = {
            "LD_PRELOAD": str(build("read_only", folder)),
            "READ_ONLY_ROOT": str(root),
            "READ_ONLY_FLAG": str(self._flag),
        }

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self._flag.touch()
        try:
            yield
        finally:
            self._flag.unlink()


class LossyDisk:
    """A folder on a disk that keeps, at a power loss, only what was synced.

    root: the folder, which is empty and on the disk.
    """

    def __init__(self, folder: Path) -> None:
        """Compile the library, and create the folder."""
        self.root = folder / "disk"
        self._kept = folder / "kept"
        for each in (self.root, self._kept):
            each.mkdir()
        self.environment = {
            "LD_PRELOAD": str(build("disk", folder)),
            "DISK_ROOT": str(self.root),
            "DISK_KEPT": str(self._kept),
        }

    def after_power_loss(self, target: Path) -> Path:
        """Write the folder as it is after a power loss in this moment; return it.

        The processes that use the folder must stand still.
        """
        [root] = self._kept.glob(f"folder-{self.root.stat().st_ino}-*")
        self._restore(root, target)
        return target

    def _restore(self, kept: Path, target: Path) -> None:
        target.mkdir()
        for line in kept.read_text().splitlines() if kept.exists() else ():
            kind, key, name = line.split("\t")
            source = self._kept / f"{kind}-{key}"
            if kind == "folder":
                self._restore(source, target / name)
            elif source.exists():
                shutil.copyfile(source, target / name)
            else:
                (target / name).touch()  # its name was synced, and its bytes never
