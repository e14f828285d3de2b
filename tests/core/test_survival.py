"""Runs in processes of their own: killed, asked to stop, out of space, and resumed bit by bit."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.checkpoint import load_checkpoint
from metanas.runs.log import LOG_FILE, SNAPSHOT_FILE
from metanas.testing import make_checkpoint
from tests.core.running import assert_same_run, state
from tests.core.small import synthetic

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ITERATIONS = 80
CONFIG = """
name = "tiny"
description = "A tiny run for tests."

[data]
path = "{path}"
licence = "none"

[input]
channels = 1
size = 12
mean = [0.0]
std = [1.0]

[space]
input_channels = 1
ops = ["max_pool_3x3", "skip_connect", "conv_3x3"]
channels = [6, 6]
reductions = [0]
nodes = 2
stem_channels = [8]
stem_stride = 2

[adapt]
steps = 2
tuning_steps = 1

[task]
ways = [3, 5]
shots = [1, 2]
images = 20
steps = 2

[search]
warm_up = 2
settle = 6

[train]
iterations = 80
validate_every = 4
snapshot_every = 3
log_every = 2
validation_episodes = 2
threads = 1
"""


SAVE = """
import os, resource, signal, sys
from pathlib import Path
from metanas.checkpoint import load_checkpoint, save_checkpoint

folder, what = Path(sys.argv[1]), sys.argv[2]
checkpoint, rename = load_checkpoint(folder), os.replace

def interrupted(source, target):
    rename(source, target)
    if Path(target).suffix == ".safetensors":
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

os.replace = interrupted
if what == "half full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
doubled = {name: 2 * value for name, value in checkpoint.params.items()}
save_checkpoint(folder, checkpoint.card, checkpoint.supernet, doubled)
"""
"""Saves a checkpoint over another; something happens when the weights are there, or half there."""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that trains, less its folder."""
    folder = tmp_path_factory.mktemp("run")
    classes = synthetic(12, 8)
    np.savez(
        folder / "classes.npz",
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        alphabet=np.array(["a"] * 12),
        split=np.array(["train"] * 7 + ["val"] * 5),
    )
    (folder / "run.toml").write_text(CONFIG.format(path=folder / "classes.npz"))
    return [sys.executable, "-m", "metanas", "train", str(folder / "run.toml"), "--out"]


def start(
    train: list[str], folder: Path, *options: str, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*train, str(folder), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(victim: subprocess.Popen[str]) -> str:
    """Wait for the process to succeed; return the text of its stderr."""
    _, error = victim.communicate()
    assert victim.returncode == 0, error
    return error


def reached(folder: Path) -> int:
    """The iteration of the snapshot."""
    return int(str(state(folder)[0]["iteration"]))


def wait_for(victim: subprocess.Popen[str], folder: Path, iteration: int) -> None:
    """Until a snapshot of this iteration, or a later one, is there."""
    while True:
        assert victim.poll() is None, victim.communicate()
        if (folder / SNAPSHOT_FILE).exists() and int(
            str(state(folder)[0]["iteration"])
        ) >= iteration:
            return
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(train: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder: Path = tmp_path_factory.mktemp("whole") / "run"
    finish(start(train, folder))
    return folder


def test_killed_twice(train: list[str], whole: Path, tmp_path: Path) -> None:
    folder, random = tmp_path / "broken", np.random.default_rng(0)
    for attempt, iteration in enumerate((0, 7)):
        victim = start(train, folder, *(["--resume"] if attempt else []))
        wait_for(victim, folder, iteration)
        time.sleep(random.uniform(0, 0.05))  # somewhere in an iteration, a write, a validation
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        victim.communicate()
        assert reached(folder) < ITERATIONS
    finish(start(train, folder, "--resume"))
    assert_same_run(whole, folder)
    logs = [(each / LOG_FILE).read_text().splitlines() for each in (whole, folder)]
    one, other = ([json.loads(line) for line in log] for log in logs)
    for line in (*one, *other):
        line.pop("time")
        line.pop("seconds")
    assert one == other


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_for_a_snapshot_and_then_to_stop(
    train: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "stopped"
    victim = start(train, folder, "--set", "train.snapshot_every=1000")
    wait_for(victim, folder, 0)
    victim.send_signal(signal.SIGUSR1)
    wait_for(victim, folder, 1)
    snapshot = reached(folder)
    victim.send_signal(number)
    _, error = victim.communicate()
    assert victim.returncode == 128 + number
    assert "--resume" in error
    assert number.name in error
    assert snapshot <= reached(folder) < ITERATIONS


def test_nobody_reads_what_it_prints(train: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "unread"
    long = ["--set", "train.iterations=4000", "--set", "train.snapshot_every=4000"]
    with subprocess.Popen(
        [*train, str(folder), *long],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout
        assert victim.stderr
        assert victim.stdout.readline().startswith("1/4000")
        victim.stdout.close()
        again = f"continue with --resume --out {folder} and the same --set"
        assert victim.stderr.read() == f"stopped by SIGPIPE; {again}\n"
    assert victim.returncode == 128 + signal.SIGPIPE
    assert 0 < reached(folder) < 4000


def handles(victim: subprocess.Popen[str], number: signal.Signals) -> bool:
    """True if the process has a handler for the signal; see proc(5)."""
    status = Path(f"/proc/{victim.pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> number - 1 & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_while_it_reads_the_data(
    train: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    buffer, images, folder = BytesIO(), 300_000, tmp_path / "never"
    Image.new("L", (12, 12)).save(buffer, "PNG")
    encoded = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez(
        tmp_path / "pack.npz",
        data=np.tile(encoded, images),
        offset=len(encoded) * np.arange(images + 1),
        label=np.arange(images) % 10,
        class_name=np.array(list("abcdefghij")),
        split=np.array(["train", "val"] * 5),
    )
    victim = start(train, folder, "--set", f'data.path = "{tmp_path / "pack.npz"}"')
    while not handles(victim, signal.SIGUSR1):  # the last of them
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.002)
    victim.send_signal(number)
    _, error = victim.communicate()
    assert victim.returncode == 128 + number
    assert error.startswith(f"stopped by {number.name}; no iteration had begun")
    assert not folder.exists()


def test_no_room_left(train: list[str], tmp_path: Path) -> None:
    """A limit on the size of files is a full disk to whoever writes."""
    folder = tmp_path / "full"
    victim = start(train, folder)
    wait_for(victim, folder, 3)
    victim.send_signal(signal.SIGTERM)
    victim.communicate()
    before = (folder / SNAPSHOT_FILE).read_bytes()

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    full = start(train, folder, "--resume", before=small)
    _, error = full.communicate()
    assert full.returncode == 2
    assert "[WRITE_FAILED]" in error
    assert "make room" in error
    assert (folder / SNAPSHOT_FILE).read_bytes() == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("what", "status", "left"),
    [("kill", -signal.SIGKILL, 3), ("full", 1, 2), ("half full", 1, 2), ("nothing", 0, 2)],
)
def test_a_checkpoint_is_replaced_as_a_whole(
    tmp_path: Path, what: str, status: int, left: int
) -> None:
    """The old one, or the new one, from the first moment on; and nothing stays for ever."""
    folder = tmp_path / "tiny"
    before = make_checkpoint(folder)
    command = [sys.executable, "-c", SAVE, str(folder)]
    done = subprocess.run([*command, what], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert len(list(folder.iterdir())) == left  # a kill leaves weights that no card names
    found, name = load_checkpoint(folder), "head.log_scale"
    assert float(found.params[name]) == (2 if status == 0 else 1) * float(before.params[name])
    subprocess.run([*command, "nothing"], cwd=ROOT, check=True)
    assert len(list(folder.iterdir())) == 2
    assert float(load_checkpoint(folder).params[name]) == 2 * float(found.params[name])
