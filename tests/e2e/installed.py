"""Virtual environments outside the checkout, into which the wheels are installed."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIP = ("python", "-m", "pip", "--isolated")
VARIABLES = ("METANAS", "PYTHON", "VIRTUAL_ENV")


def outside(folder: Path) -> dict[str, str]:
    """Return an environment with the programs of a virtual environment, without the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    return {**kept, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def run(folder: Path, *command: str, cwd: Path) -> str:
    """Run a program of a virtual environment; return its output."""
    done = subprocess.run(
        [str(folder / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=outside(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheels(out: Path) -> None:
    command = ["make", "--silent", "wheels", f"DIST={out}", f"VENV={sys.prefix}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def with_linked_packages(folder: Path) -> None:
    """Make a virtual environment that has all third-party packages of this one, as links.

    The installation of torch would take minutes, and that of pip takes seconds. pip sees the links
    as installed packages and checks that they meet the declared needs.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m pip "$@"\n', encoding="utf-8")
    pip.chmod(0o755)
    target = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    for kind in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(kind).iterdir():
            ours = path.name.startswith(("metanas", "_metanas")) or path.suffix == ".pth"
            if not ours and not (target / path.name).exists():
                (target / path.name).symlink_to(path)


def pythons() -> list[Path]:
    """Return other Pythons of this machine that the packages support, the newest one last."""
    found = {}
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [*root.glob("versions/3.*/bin/python3"), *Path("/usr/bin").glob("python3.??")]:
        done = subprocess.run(
            [str(path), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            found[tuple(map(int, done.stdout.split()))] = path
    return [found[version] for version in sorted(found) if version > sys.version_info[:2]]


def image_steps() -> list[str]:
    """Return the pip commands of the Dockerfile, each as one line for a shell."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"^RUN (.*pip .*)$", text, re.MULTILINE)


def has_namespaces() -> bool:
    """Return True if this process may mount file systems for a child of its own."""
    try:
        done = subprocess.run(["unshare", "--mount", "setpriv", "--version"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def read_only(writable: list[Path]) -> list[str]:
    """Return the start of a command that may write to these folders only, without capabilities."""
    binds = [f'mount --bind "{path}" "{path}"' for path in writable]
    drop = "exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all"
    script = "; ".join([*binds, "mount -o remount,bind,ro /", f'{drop} "$@"'])
    return ["unshare", "--mount", "sh", "-euc", script, "sh"]


@contextmanager
def server(folder: Path, cwd: Path, *, prefix: Sequence[str] = ()) -> Iterator[str]:
    """Run the installed server on a free port; yield its address."""
    flags = ("--listen=127.0.0.1:0", "--devices=cpu", "--threads=1", "--data=data")
    log = cwd / "server.log"
    (cwd / "tmp").mkdir(exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            [*prefix, str(folder / "bin" / "metanas-server"), *flags],
            cwd=cwd,
            env={**outside(folder), "TMPDIR": str(cwd / "tmp")},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert "drawn, omniglot, photos" in ready, log.read_text(encoding="utf-8")
            yield ready.split(" ready on ")[1].split()[0]
        finally:
            process.terminate()
