"""Runs on disk: log, snapshots, best checkpoint; killed and resumed as if nothing had happened."""

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError, Diverged, InvalidInput, UnknownName
from metanas.runs.log import LOG_FILE, SNAPSHOT_FILE
from metanas.runs.run import run
from metanas.runs.signals import Requests
from metanas.training.config import DataConfig, RunConfig
from metanas.training.extensions import Extensions, Learn
from metanas.training.trainer import COLLAPSED, Progress
from metanas.util.provenance import revision
from metanas_data.datasets.stacks import Classes
from metanas_data.datasets.tasks import Features
from tests.core.running import assert_same_run, ignore, refused, state, without_data
from tests.core.small import RUN


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
    assert {"software", "machine", "time", "date"} <= card.provenance.keys()
    assert card.provenance.get("revision") == revision()
    assert str(tmp_path) not in json.dumps(dict(card.provenance))


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


def test_resuming_a_run_that_guesses_is_as_if_nothing_had_happened(
    config: RunConfig, data: Path, tmp_path: Path
) -> None:
    """Of black images nothing can be learned: every iteration guesses."""
    classes = dict(np.load(data))
    classes["images"] = np.zeros_like(classes["images"])
    np.savez(tmp_path / "black.npz", **classes)
    settings = replace(
        config.train, iterations=2 * COLLAPSED, snapshot_every=1, validate_every=2 * COLLAPSED
    )
    black = replace(config, data=DataConfig(path=str(tmp_path / "black.npz")), train=settings)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, iteration in ((whole, COLLAPSED), (broken, COLLAPSED // 2)):
        with pytest.raises(Stop):
            run(black, folder, resume=False, on_progress=stop_at(iteration + 1))
    with pytest.raises(Stop):
        run(black, broken, resume=True, on_progress=stop_at(COLLAPSED + 1))
    (header, tensors), (header_too, tensors_too) = state(whole), state(broken)
    assert header == header_too
    assert header["guessing"] == header["guessed"] == COLLAPSED
    assert all(torch.equal(value, tensors_too[name]) for name, value in tensors.items())
    last = replace(black, train=replace(settings, iterations=COLLAPSED + 1))
    with pytest.raises(Diverged, match=f"{COLLAPSED + 1} iterations did no better than guessing"):
        run(last, broken, resume=True, on_progress=ignore)


def test_a_run_goes_on_for_longer(config: RunConfig, finished: Path) -> None:
    run(config, finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6


def test_a_run_that_is_further_than_asked_for(
    config: RunConfig, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the data are read: --resume without the --set of before."""
    short = replace(config, train=replace(config.train, iterations=3))
    run(short, finished, resume=True, on_progress=ignore)
    told = "the run is at iteration 3, train.iterations is 3: nothing to do"
    assert [record.getMessage() for record in caplog.records] == [told]
    run(config, finished, resume=True, on_progress=ignore)
    with pytest.raises(InvalidInput, match="the same --set") as caught:
        run(without_data(short), finished, resume=True, on_progress=ignore)
    assert "at iteration 6, train.iterations is 3: nothing to do" in str(caught.value)


def test_a_run_is_not_overwritten(config: RunConfig, finished: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        run(config, finished, resume=False, on_progress=ignore)
    assert caught.value.reason == "RUN_EXISTS"
    (finished / SNAPSHOT_FILE).unlink()  # parts of a run are not written over either
    with pytest.raises(CheckpointError) as caught:
        run(config, finished, resume=False, on_progress=ignore)
    assert caught.value.reason == "RUN_EXISTS"


def test_a_run_has_its_folder_to_itself(config: RunConfig, finished: Path) -> None:
    longer = replace(config, train=replace(config.train, iterations=9))
    refused = list[str]()

    def intrude(seen: Progress) -> None:
        with pytest.raises(CheckpointError, match="another process") as caught:
            run(longer, finished, resume=True, on_progress=ignore)
        refused.append(caught.value.reason)

    run(longer, finished, resume=True, on_progress=intrude)
    assert refused == ["RUN_IN_USE"] * 6


def test_a_folder_in_use_is_refused_before_the_data(config: RunConfig, finished: Path) -> None:
    def intrude(seen: Progress) -> None:
        assert refused(without_data(config), finished).reason == "RUN_IN_USE"

    run(config, finished, resume=True, on_progress=intrude)


def test_a_run_that_came_and_went_meanwhile_is_not_overwritten(
    config: RunConfig, tmp_path: Path
) -> None:
    def late(of: RunConfig, train: Classes | Features) -> Learn:
        """Complete another run between the data and the first iteration of this one."""
        run(config, tmp_path, resume=False, on_progress=ignore)
        return Extensions().batch(of, train)

    other = replace(config, name="other")
    with pytest.raises(CheckpointError) as caught:
        run(other, tmp_path, resume=False, on_progress=ignore, learner=late)
    assert caught.value.reason == "RUN_EXISTS"
    assert load_checkpoint(tmp_path / "checkpoint").card.name == config.name


def test_what_a_killed_process_was_writing_is_cleared_away(
    config: RunConfig, finished: Path
) -> None:
    gone = (finished / ".unfinished-1", finished / "checkpoint" / ".unfinished-2")
    others = (finished / "notes.txt", finished / "another run" / ".unfinished-3")
    others[1].parent.mkdir()
    for each in (*gone, *others):
        each.write_bytes(b"half")
    run(config, finished, resume=True, on_progress=ignore)
    assert [each.exists() for each in (*gone, *others)] == [False, False, True, True]


def test_data_may_move_but_not_change(
    config: RunConfig, finished: Path, data: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(data.read_bytes())
    there = replace(config, data=replace(config.data, path=str(moved)))
    run(there, finished, resume=True, on_progress=ignore)
    classes = dict(np.load(data))
    classes["class_name"] = np.array([f"other {name}" for name in classes["class_name"]])
    np.savez(moved, **classes)
    assert refused(there, finished).reason == "CHECKPOINT_FORMAT"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"train": replace(RUN.train, meta_learner="mystery")}, "meta-learner"),
        ({"search": replace(RUN.search, relaxation="mystery")}, "relaxation"),
        ({"space": replace(RUN.space, ops=("mystery", "skip_connect"))}, "op"),
    ],
)
def test_unknown_names_are_refused_before_the_data(
    config: RunConfig, tmp_path: Path, change: dict[str, Any], kind: str
) -> None:
    with pytest.raises(UnknownName, match="mystery") as caught:
        run(replace(without_data(config), **change), tmp_path, resume=False, on_progress=ignore)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train": replace(RUN.train, meta_learner="Meta-SGD")}, "train.learned_rates = true"),
        ({"search": replace(RUN.search, relaxation="pc_darts")}, "space.partial = 2"),
    ],
)
def test_who_looks_for_a_switch_by_its_name_is_told(
    config: RunConfig, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(UnknownName, match=re.escape(told)):
        run(replace(config, **change), tmp_path, resume=False, on_progress=ignore)


def test_a_folder_that_cannot_be_is_refused_before_the_data(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    told = "file is a file); choose another --out"
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=re.escape(told)) as caught:
            run(without_data(config), folder, resume=False, on_progress=ignore)
        assert caught.value.reason == "WRITE_FAILED"
        assert "--resume" not in str(caught.value)  # there is nothing to resume


def test_the_log_has_no_gaps_and_nothing_twice(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, train=replace(config.train, log_every=1, snapshot_every=3))
    with pytest.raises(Stop):
        run(config, tmp_path, resume=False, on_progress=stop_at(6))
    log = tmp_path / LOG_FILE
    log.write_text(log.read_text() + '{"iteration": 6, "loss": 0')  # killed while writing
    run(config, tmp_path, resume=True, on_progress=ignore)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_snapshots_have_a_rhythm_of_their_own(config: RunConfig, tmp_path: Path) -> None:
    found: list[object] = []

    def look(seen: Progress) -> None:
        found.append(state(tmp_path)[0]["iteration"])

    settings = replace(config.train, snapshot_every=2, validate_every=99)
    run(replace(config, train=settings), tmp_path, resume=False, on_progress=look)
    assert found == [0, 0, 2, 2, 4, 4]


def test_a_wish_is_granted_after_the_iteration(config: RunConfig, tmp_path: Path) -> None:
    requests = Requests()
    found: list[object] = []

    def wish(seen: Progress) -> None:
        found.append(state(tmp_path)[0]["iteration"])
        requests.snapshot = seen.iteration == 1
        requests.stop = signal.SIGTERM if seen.iteration == 4 else None

    settings = replace(config.train, snapshot_every=99, validate_every=99)
    rare = replace(config, train=settings)
    run(rare, tmp_path, resume=False, on_progress=wish, requests=requests)
    assert found == [0, 1, 1, 1]
    assert state(tmp_path)[0]["iteration"] == 4


def test_divergence_names_the_iteration_and_keeps_the_snapshot(
    config: RunConfig, finished: Path
) -> None:
    before = (finished / SNAPSHOT_FILE).read_bytes()
    wild = replace(config, train=replace(config.train, weight_lr=3e38, snapshot_every=1))
    with pytest.raises(Diverged) as caught:
        run(wild, finished, resume=True, on_progress=ignore)
    assert "meta-iteration 4 diverged" in str(caught.value)
    assert "after iteration 3" in str(caught.value)
    assert (finished / SNAPSHOT_FILE).read_bytes() == before


def test_no_snapshot_is_taken_of_a_network_that_guesses(config: RunConfig, finished: Path) -> None:
    """On a rhythm, when asked to, or at the end."""
    before = (finished / SNAPSHOT_FILE).read_bytes()
    wild: dict[str, Any] = {"weight_lr": 1e20, "iterations": 6, "snapshot_every": 1}
    requests = Requests(snapshot=True)
    changed = replace(config, train=replace(config.train, **wild))
    run(changed, finished, resume=True, on_progress=ignore, requests=requests)
    assert (finished / SNAPSHOT_FILE).read_bytes() == before
    assert requests.snapshot  # for an iteration that is better


def test_a_run_that_has_learned_nothing_yet_can_be_stopped(
    config: RunConfig, tmp_path: Path
) -> None:
    """Slow beginnings would else be lost: no snapshot of before is any better."""
    slow = replace(config, train=replace(config.train, meta_lr_weights=1e-9, meta_lr_alphas=1e-9))
    requests = Requests()

    def stop(seen: Progress) -> None:
        requests.stop = signal.SIGTERM if seen.iteration == 2 else None

    run(slow, tmp_path, resume=False, on_progress=stop, requests=requests)
    assert state(tmp_path)[0]["iteration"] == 2


def test_a_run_that_diverged_goes_on_with_lower_rates(config: RunConfig, finished: Path) -> None:
    lower = replace(config.train, weight_lr=1e-4, meta_lr_weights=0.5)
    run(replace(config, train=lower), finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6


def test_a_run_goes_on_with_other_words_about_it(config: RunConfig, finished: Path) -> None:
    data = replace(config.data, licence="for research alone")
    said = replace(config, description="said better", data=data)
    run(said, finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["config"]["description"] == "said better"


def test_what_cannot_be_written_is_said_and_harms_nothing(
    config: RunConfig, finished: Path
) -> None:
    before = (finished / SNAPSHOT_FILE).read_bytes()
    (finished / LOG_FILE).unlink()
    (finished / LOG_FILE).mkdir()
    with pytest.raises(CheckpointError, match="continue with --resume") as caught:
        run(config, finished, resume=True, on_progress=ignore)
    assert caught.value.reason == "WRITE_FAILED"
    assert (finished / SNAPSHOT_FILE).read_bytes() == before


def test_errors_of_callbacks_are_not_those_of_the_disk(config: RunConfig, tmp_path: Path) -> None:
    def fail(seen: Progress) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        run(config, tmp_path, resume=False, on_progress=fail)
