"""Runs on disk: log, snapshots, best checkpoint; killed and resumed as if nothing had happened."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from metanas.checkpoint import load_checkpoint
from metanas.config import DataConfig, RunConfig
from metanas.errors import CheckpointError
from metanas.runs import LOG_FILE, run
from metanas.snapshots import SNAPSHOT_FILE
from metanas.train import Progress
from tests.core.small import RUN, synthetic

ROOT = Path(__file__).parents[2]
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
stem_channels = 8
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
iterations = 40
validate_every = 4
snapshot_every = 3
log_every = 2
validation_episodes = 2
threads = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data") / "classes.npz"
    classes = synthetic(12, 8)
    np.savez(
        path,
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        alphabet=np.array(["a"] * 12),
        split=np.array(["train"] * 7 + ["val"] * 5),
    )
    return path


@pytest.fixture
def config(data: Path) -> RunConfig:
    return replace(RUN, data=DataConfig(path=str(data), licence="none"))


def ignore(seen: Progress) -> None:
    pass


def state(folder: Path) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    """Header and tensors of a snapshot."""
    raw = (folder / SNAPSHOT_FILE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["run"])
    return header, safetensors.torch.load(raw)


def assert_same_run(one: Path, other: Path) -> None:
    (header, tensors), (header_too, tensors_too) = state(one), state(other)
    assert header == header_too
    assert tensors.keys() == tensors_too.keys()
    for name, value in tensors.items():
        assert torch.equal(value, tensors_too[name]), name
    cards = [load_checkpoint(folder / "checkpoint").card for folder in (one, other)]
    assert cards[0] == cards[1]


def test_a_run_leaves_a_log_a_snapshot_and_its_best_checkpoint(
    config: RunConfig, data: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    best = run(config, tmp_path / "run", resume=False, on_progress=seen.append)
    assert [progress.iteration for progress in seen] == [1, 2, 3, 4, 5, 6]
    log = [json.loads(line) for line in (tmp_path / "run" / LOG_FILE).read_text().splitlines()]
    assert [line["iteration"] for line in log] == [3, 4, 6]
    assert [line["pruned"] is None for line in log] == [False, True, False]
    assert best.accuracy == max(line["pruned"] for line in log if line["pruned"])
    assert {"loss", "accuracy", "entropy", "temperature", "seconds"} <= log[0].keys()
    card = load_checkpoint(tmp_path / "run" / "checkpoint").card
    assert card.name == "tiny"
    assert card.defaults == config.adapt
    assert card.provenance["data"] == data.name
    assert card.provenance["iterations"] == str(best.iteration)
    assert str(tmp_path) not in json.dumps(dict(card.provenance))


def test_a_checkpoint_has_its_model_card(config: RunConfig, tmp_path: Path) -> None:
    run(config, tmp_path, resume=False, on_progress=ignore)
    page = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {config.name}\n")
    for fact in (config.description, "reptile", "skip_connect", "% pruned", "none"):
        assert fact in page


class Stop(Exception):
    pass


def stop_at(iteration: int) -> Callable[[Progress], None]:
    def on_progress(seen: Progress) -> None:
        if seen.iteration == iteration:
            raise Stop

    return on_progress


@pytest.mark.parametrize("iteration", [4, 5, 6])
def test_resuming_is_as_if_nothing_had_happened(
    config: RunConfig, tmp_path: Path, iteration: int
) -> None:
    run(config, tmp_path / "whole", resume=False, on_progress=ignore)
    with pytest.raises(Stop):
        run(config, tmp_path / "broken", resume=False, on_progress=stop_at(iteration))
    best = run(config, tmp_path / "broken", resume=True, on_progress=ignore)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert state(tmp_path / "whole")[0]["best"] == vars(best)


@pytest.mark.slow
def test_killed_and_resumed(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(path=data))
    command = [sys.executable, "-m", "metanas", "train", str(path), "--out"]

    def finish(folder: Path, *options: str) -> None:
        done = subprocess.run(
            [*command, str(folder), *options], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    finish(tmp_path / "whole")
    broken = tmp_path / "broken"
    victim = subprocess.Popen(
        [*command, str(broken)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (broken / LOG_FILE).exists():
        assert victim.poll() is None
        time.sleep(0.005)
    victim.kill()
    assert victim.wait() != 0
    assert state(broken)[0]["iteration"] != 40
    finish(broken, "--resume")
    assert_same_run(tmp_path / "whole", broken)


def resumed(config: RunConfig, folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        run(config, folder, resume=True, on_progress=ignore)
    assert str(folder) in str(caught.value)
    return caught.value.reason


@pytest.fixture
def finished(config: RunConfig, tmp_path: Path) -> Path:
    short = replace(config, train=replace(config.train, iterations=3))
    run(short, tmp_path / "run", resume=False, on_progress=ignore)
    return tmp_path / "run"


def test_a_run_goes_on_for_longer(config: RunConfig, finished: Path) -> None:
    run(config, finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6


def test_a_run_is_not_overwritten(config: RunConfig, finished: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        run(config, finished, resume=False, on_progress=ignore)
    assert caught.value.reason == "RUN_EXISTS"


def test_nothing_to_resume(config: RunConfig, tmp_path: Path) -> None:
    assert resumed(config, tmp_path) == "CHECKPOINT_MISSING"


def test_another_configuration_is_refused(config: RunConfig, finished: Path) -> None:
    wider = replace(config, space=replace(config.space, channels=(6, 8)))
    reseeded = replace(config, train=replace(config.train, seed=1))
    for other in (wider, reseeded):
        assert resumed(other, finished) == "CHECKPOINT_FORMAT"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    header, tensors = state(folder)
    change(tensors)
    raw = safetensors.torch.save(tensors, {"run": json.dumps(header)})
    (folder / SNAPSHOT_FILE).write_bytes(raw)


def test_damaged_snapshots(config: RunConfig, finished: Path) -> None:
    path = finished / SNAPSHOT_FILE
    sound = path.read_bytes()
    bare = safetensors.torch.save({"a": torch.zeros(1)})
    empty = safetensors.torch.save({"a": torch.zeros(1)}, {"run": "{}"})
    for raw in (sound[:-9], b"", b"\x80\x04K\x01.", sound[:100], bare, empty):
        path.write_bytes(raw)
        assert resumed(config, finished) == "CHECKPOINT_DAMAGED"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("params"),
        lambda tensors: tensors.pop("moments.first"),
        lambda tensors: tensors.pop("alive.normal"),
        lambda tensors: tensors.update(params=torch.zeros(2, 2)),
        lambda tensors: tensors.update(factors=tensors["factors"].double()),
    ],
)
def test_snapshots_whose_tensors_do_not_fit(
    config: RunConfig, finished: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    rewrite(finished, change)
    assert resumed(config, finished) == "CHECKPOINT_DAMAGED"
