"""Snapshots of a run: a damaged or foreign one is refused, and no write makes one unusable."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from metanas.checkpoint import load_checkpoint
from metanas.errors import Diverged
from metanas.runs.log import LOG_FILE, SNAPSHOT_FILE
from metanas.runs.run import run
from metanas.training.config import RunConfig
from metanas.training.extensions import Extensions, Learn
from metanas.training.task_batch import MetaState, TaskResults
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features
from tests.core.running import ignore, refused, rewrite, state, without_data

Tensors = dict[str, torch.Tensor]


def test_nothing_to_resume(config: RunConfig, tmp_path: Path) -> None:
    error = refused(without_data(config), tmp_path)
    assert error.reason == "CHECKPOINT_MISSING"
    assert str(error).endswith("start without --resume")


def test_whoever_has_lost_the_snapshot_is_told_of_the_checkpoint(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    """Neither way in sends to the other, and what they say works."""
    (finished / SNAPSHOT_FILE).unlink()
    best = finished / "checkpoint"
    for resume in (True, False):
        error = refused(without_data(config), finished, resume=resume)
        assert error.reason == ("CHECKPOINT_MISSING" if resume else "RUN_EXISTS")
        assert "choose another --out" in str(error)
        assert f"--set 'train.start=\"{best}\"'" in str(error)
        assert "--resume" not in str(error).replace("to resume from", "")
    again = replace(config, train=replace(config.train, start=str(best)))
    run(again, tmp_path / "another", resume=False, on_progress=ignore)


def test_a_log_alone_is_no_dead_end(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("")
    for resume in (True, False):
        error = refused(without_data(config), tmp_path, resume=resume)
        assert str(error).endswith("; choose another --out")


def test_another_configuration_is_refused(config: RunConfig, finished: Path) -> None:
    wider = replace(config, space=replace(config.space, channels=(6, 8)))
    reseeded = replace(config, train=replace(config.train, seed=1))
    for other in map(without_data, (wider, reseeded)):
        assert refused(other, finished).reason == "CHECKPOINT_FORMAT"
    assert "train.seed is 0 there and 1 here" in str(refused(reseeded, finished))


def test_keys_that_came_later_have_their_defaults(config: RunConfig, finished: Path) -> None:
    """A run under way goes on with a release that has more to configure."""

    def older(header: dict[str, Any], tensors: Tensors) -> None:
        del header["config"]["data"]["mirrored"]
        del header["config"]["photo"]
        del header["config"]["adapt"]["shift_pixels"]

    rewrite(finished, older)
    mirrored = replace(config, data=replace(config.data, mirrored=True))
    assert "data.mirrored is false there and true here" in str(refused(mirrored, finished))
    run(config, finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6


def test_how_often_finished_models_look_may_change(config: RunConfig, finished: Path) -> None:
    shifted = replace(config, adapt=config.adapt.replace({"shift_pixels": 1}))
    run(shifted, finished, resume=True, on_progress=ignore)
    assert load_checkpoint(finished / "checkpoint").card.defaults.shift_pixels == 1


def test_keys_that_are_no_more_are_named(config: RunConfig, finished: Path) -> None:
    rewrite(finished, lambda header, tensors: header["config"]["train"].update(colour="red"))
    error = refused(without_data(config), finished)
    assert error.reason == "CHECKPOINT_FORMAT"
    assert "train.colour" in str(error)


def test_files_of_others_are_named(config: RunConfig, finished: Path) -> None:
    tensors = {"a": torch.zeros(1)}
    for metadata in (None, {}, {"run": "{}"}, {"run": "[]"}, {"format": "pt"}):
        raw = safetensors.torch.save(tensors, metadata)
        (finished / SNAPSHOT_FILE).write_bytes(raw)
        error = refused(without_data(config), finished)
        assert error.reason == "CHECKPOINT_FORMAT"
        assert "is not a snapshot of this program" in str(error)
        assert "train.start" in str(error)


def test_another_format_is_named(config: RunConfig, finished: Path) -> None:
    rewrite(finished, lambda header, tensors: header.update(format_version=1))
    error = refused(without_data(config), finished)
    assert error.reason == "CHECKPOINT_FORMAT"
    assert "format version 1; this release reads 2" in str(error)


def test_damaged_snapshots(config: RunConfig, finished: Path) -> None:
    path = finished / SNAPSHOT_FILE
    sound = path.read_bytes()
    for raw in (sound[:-9], b"", b"\x80\x04K\x01.", sound[:100]):
        path.write_bytes(raw)
        error = refused(without_data(config), finished)
        assert error.reason == "CHECKPOINT_DAMAGED"
        assert "choose another --out; the best network so far is in" in str(error)


def test_one_bit_is_enough(config: RunConfig, finished: Path) -> None:
    path = finished / SNAPSHOT_FILE
    sound = path.read_bytes()
    length = int.from_bytes(sound[:8], "little")
    at = sound.index(b'\\"iteration\\": 3') + len(b'\\"iteration\\": ')
    for position in (at, 8 + length + 1, len(sound) // 2, len(sound) - 1):
        raw = bytearray(sound)
        raw[position] ^= 1
        path.write_bytes(raw)
        error = refused(without_data(config), finished)
        assert error.reason == "CHECKPOINT_DAMAGED"
        assert "SHA-256" in str(error)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("params"),
        lambda tensors: tensors.pop("moments.first"),
        lambda tensors: tensors.pop("alive.normal"),
        lambda tensors: tensors.update(params=torch.zeros(2, 2)),
        lambda tensors: tensors.update(factors=tensors["factors"].double()),
        lambda tensors: tensors["factors"].fill_(torch.nan),
        lambda tensors: tensors["outer.second"].fill_(torch.inf),
    ],
)
def test_snapshots_whose_tensors_do_not_fit(
    config: RunConfig, finished: Path, change: Callable[[Tensors], object]
) -> None:
    rewrite(finished, lambda header, tensors: change(tensors))
    assert refused(config, finished).reason == "CHECKPOINT_DAMAGED"


def test_what_is_not_finite_replaces_no_snapshot(config: RunConfig, finished: Path) -> None:
    """Not even what no loss has shown yet; and what the message proposes works."""
    sound, checkpoint = state(finished), load_checkpoint(finished / "checkpoint")

    def overflowing(of: RunConfig, train: Classes | Features) -> Learn:
        batch = Extensions().batch(of, train)

        def learn(now: MetaState, tasks: range) -> TaskResults:
            found = batch(now, tasks)
            second = torch.full_like(found.moments.second, torch.inf)
            return replace(found, moments=replace(found.moments, second=second))

        return learn

    eager = replace(config, train=replace(config.train, snapshot_every=1))
    with pytest.raises(Diverged) as caught:
        run(eager, finished, resume=True, on_progress=ignore, learner=overflowing)
    assert "meta-iteration 4 diverged: moments.second holds NaN" in str(caught.value)
    assert "after iteration 3" in str(caught.value)
    assert json.dumps(state(finished)[0]) == json.dumps(sound[0])
    assert load_checkpoint(finished / "checkpoint").card == checkpoint.card
    run(config, finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6
