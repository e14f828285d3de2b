"""Runs on disk: log, snapshots, best checkpoint; killed and resumed as if nothing had happened."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image

from metanas.checkpoint import load_checkpoint
from metanas.config import DataConfig, RunConfig, read_config
from metanas.data import load
from metanas.episodes import Classes, Features
from metanas.errors import CheckpointError, DatasetError, Diverged, UnknownName
from metanas.genotype import CELL_KINDS
from metanas.relax import RELAXATIONS
from metanas.runlog import LOG_FILE, SNAPSHOT_FILE
from metanas.runs import classes_of, run
from metanas.train import Extensions, Learn, Progress
from metanas.wishes import Wishes
from metanas.workbench import make_model
from tests.core.small import GENOTYPE, RUN, examples, synthetic


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
    (finished / SNAPSHOT_FILE).unlink()  # what is left of a run is not written over either
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
        assert resumed(without_data(config), finished) == "RUN_IN_USE"

    run(config, finished, resume=True, on_progress=intrude)


def test_a_run_that_came_and_went_meanwhile_is_not_overwritten(
    config: RunConfig, tmp_path: Path
) -> None:
    def late(of: RunConfig, train: Classes | Features) -> Learn:
        """What comes between the data and the first iteration: another process's whole run."""
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


def test_classes_may_come_from_the_caller(config: RunConfig, tmp_path: Path) -> None:
    size, path = config.input.size, config.data.path
    train, val = (load(path, split, size=size, channels=1) for split in ("train", "val"))
    seen = list[Progress]()
    run(config, tmp_path / "one", resume=False, on_progress=ignore)
    best = run(
        without_data(config),
        tmp_path / "other",
        resume=False,
        on_progress=seen.append,
        extensions=Extensions(splits=(train, val)),
    )
    assert len(seen) == config.train.iterations
    assert best.iteration > 0
    one, other = state(tmp_path / "one")[1], state(tmp_path / "other")[1]
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(DatasetError, match="both splits"):
        run(
            without_data(config),
            tmp_path / "mixed",
            resume=False,
            on_progress=ignore,
            extensions=Extensions(splits=(train, train)),
        )


def split_in_two(classes: Classes) -> tuple[Classes, Classes]:
    names = sorted(classes)
    return {name: classes[name] for name in names[:7]}, {name: classes[name] for name in names[7:]}


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_of_the_caller_become_what_the_network_takes(
    config: RunConfig, channels: int
) -> None:
    splits = split_in_two(synthetic(12, 8, size=20, channels=channels))
    for found in classes_of(config, splits=splits):
        assert {images.shape for images in found.values()} == {(8, 1, 12, 12)}


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.astype(np.float32) / 255,
        lambda images: images[:, 0],
        lambda images: images.transpose(0, 2, 3, 1),
    ],
)
def test_classes_of_the_caller_that_are_no_images(
    config: RunConfig, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    classes = {name: change(images) for name, images in synthetic(12, 8).items()}
    with pytest.raises(DatasetError, match=r"images are uint8 \(N, C, H, W\)") as caught:
        classes_of(config, splits=split_in_two(classes))
    assert caught.value.reason == "DATASET_FORMAT"


def test_training_and_validation_are_apart(config: RunConfig, data: Path, tmp_path: Path) -> None:
    same = replace(config, data=DataConfig(path=str(data), val_split="train"))
    with pytest.raises(DatasetError, match="7 classes are in both splits"):
        run(same, tmp_path / "run", resume=False, on_progress=ignore)


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
    assert resumed(there, finished) == "CHECKPOINT_FORMAT"


def without_data(config: RunConfig) -> RunConfig:
    """The same, but that reading its data would be an error."""
    return replace(config, data=replace(config.data, path="nowhere.npz"))


def test_nothing_to_resume(config: RunConfig, tmp_path: Path) -> None:
    assert resumed(without_data(config), tmp_path) == "CHECKPOINT_MISSING"


def test_another_configuration_is_refused(config: RunConfig, finished: Path) -> None:
    wider = replace(config, space=replace(config.space, channels=(6, 8)))
    reseeded = replace(config, train=replace(config.train, seed=1))
    for other in map(without_data, (wider, reseeded)):
        assert resumed(other, finished) == "CHECKPOINT_FORMAT"
    with pytest.raises(CheckpointError, match=r"train\.seed is 0 there and 1 here"):
        run(reseeded, finished, resume=True, on_progress=ignore)


def test_how_often_finished_models_look_may_change(config: RunConfig, finished: Path) -> None:
    """In snapshots of earlier releases there is nothing of it."""
    path = finished / SNAPSHOT_FILE
    header, tensors = state(finished)
    adapt = header["config"]["adapt"]  # type: ignore[index]
    del adapt["shift_pixels"]
    path.write_bytes(safetensors.torch.save(tensors, {"run": json.dumps(header)}))
    shifted = replace(config, adapt=config.adapt.replace({"shift_pixels": 1}))
    run(shifted, finished, resume=True, on_progress=ignore)
    assert load_checkpoint(finished / "checkpoint").card.defaults.shift_pixels == 1


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


def test_a_folder_that_cannot_be_is_refused_before_the_data(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="another --out") as caught:
            run(without_data(config), folder, resume=False, on_progress=ignore)
        assert caught.value.reason == "WRITE_FAILED"
        assert "--resume" not in str(caught.value)  # there is nothing to go on with


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
    wishes = Wishes()
    found: list[object] = []

    def wish(seen: Progress) -> None:
        found.append(state(tmp_path)[0]["iteration"])
        wishes.snapshot = seen.iteration == 1
        wishes.stop = signal.SIGTERM if seen.iteration == 4 else None

    settings = replace(config.train, snapshot_every=99, validate_every=99)
    rare = replace(config, train=settings)
    run(rare, tmp_path, resume=False, on_progress=wish, wishes=wishes)
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


def test_a_run_that_diverged_goes_on_with_lower_rates(config: RunConfig, finished: Path) -> None:
    lower = replace(config.train, weight_lr=1e-4, meta_lr_weights=0.5)
    run(replace(config, train=lower), finished, resume=True, on_progress=ignore)
    assert state(finished)[0]["iteration"] == 6


def test_what_cannot_be_written_is_said_and_harms_nothing(
    config: RunConfig, finished: Path
) -> None:
    before = (finished / SNAPSHOT_FILE).read_bytes()
    (finished / LOG_FILE).unlink()
    (finished / LOG_FILE).mkdir()
    with pytest.raises(CheckpointError, match="go on with --resume") as caught:
        run(config, finished, resume=True, on_progress=ignore)
    assert caught.value.reason == "WRITE_FAILED"
    assert (finished / SNAPSHOT_FILE).read_bytes() == before


@pytest.fixture
def flawed(config: RunConfig, data: Path, tmp_path: Path) -> RunConfig:
    """Of folders, with a class's file in each split that is no image."""
    with np.load(data) as archive:
        arrays = dict(archive)
    root = tmp_path / "folder"
    for name, split, images in zip(
        *(arrays[k] for k in ("class_name", "split", "images")), strict=True
    ):
        (root / split / name).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(image).save(root / split / name / f"{index}.png")
    for split in ("train", "val"):
        folder = min((root / split).iterdir())
        (folder / "broken.png").write_bytes(b"no image")
    return replace(config, data=DataConfig(path=str(root)))


def test_unreadable_images_are_refused_together(flawed: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        run(flawed, tmp_path / "run", resume=False, on_progress=ignore)
    assert caught.value.reason == "DATASET_IMAGE"
    assert str(caught.value).startswith("2 images cannot be read: train/")
    assert ", val/" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_left_out(
    flawed: RunConfig,
    config: RunConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    lenient = replace(flawed, data=replace(flawed.data, unreadable="skip"))
    run(lenient, tmp_path / "run", resume=False, on_progress=ignore)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("2 images cannot be read: train/")
    assert told.endswith("left out")
    run(config, tmp_path / "whole", resume=False, on_progress=ignore)
    (_, one), (_, other) = state(tmp_path / "run"), state(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_errors_of_callbacks_are_not_those_of_the_disk(config: RunConfig, tmp_path: Path) -> None:
    def fail(seen: Progress) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        run(config, tmp_path, resume=False, on_progress=fail)


def test_the_configuration_travels_with_the_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    run(config, tmp_path, resume=False, on_progress=ignore)
    again = read_config(tmp_path / "checkpoint" / "training.json")
    assert again.train == config.train
    assert again.search == config.search
    assert "/" not in again.data.path


def test_a_run_starts_from_a_checkpoint(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    settings = replace(config.train, iterations=1, start=str(finished / "checkpoint"))
    frozen = replace(settings, meta_lr_weights=0.0, meta_lr_alphas=0.0)
    search = replace(config.search, warm_up=9, settle=0)
    still = replace(config, train=frozen, search=search)
    run(still, tmp_path / "still", resume=False, on_progress=ignore)
    before, after = (
        load_checkpoint(folder / "checkpoint") for folder in (finished, tmp_path / "still")
    )
    assert all(torch.equal(after.params[name], value) for name, value in before.params.items())
    for kind in CELL_KINDS:
        kept = [each.supernet.cell_alpha(kind).alive for each in (before, after)]
        assert torch.equal(*kept)
    assert read_config(tmp_path / "still" / "checkpoint" / "training.json").train.start == (
        "checkpoint"
    )


def test_a_run_does_not_start_from_another_search_space(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    settings = replace(config.train, start=str(finished / "checkpoint"))
    other = replace(without_data(config), train=settings, space=replace(config.space, nodes=3))
    told = r"another search space: space\.nodes is 2 there and 3 here$"
    with pytest.raises(CheckpointError, match=told) as caught:
        run(other, tmp_path / "other", resume=False, on_progress=ignore)
    assert caught.value.reason == "CHECKPOINT_FORMAT"
    assert not (tmp_path / "other").exists()
    missing = replace(config, train=replace(settings, start=str(tmp_path / "nowhere")))
    with pytest.raises(CheckpointError, match="nowhere"):
        run(missing, tmp_path / "other", resume=False, on_progress=ignore)


def test_learned_rates_and_plain_steps_go_with_the_checkpoint(
    config: RunConfig, tmp_path: Path
) -> None:
    settings = replace(config.train, learned_rates=True, task_optimizer="sgd")
    run(replace(config, train=settings), tmp_path, resume=False, on_progress=ignore)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.card.task_optimizer == "sgd"
    assert checkpoint.card.rates.keys() == checkpoint.params.keys()
    assert len({round(rate, 6) for rate in checkpoint.card.rates.values()}) > 3
    plain = replace(checkpoint, card=replace(checkpoint.card, rates={}))
    support = examples((2, 2, 2), size=12)
    assert make_model(checkpoint, support).onnx != make_model(plain, support).onnx


@pytest.mark.parametrize("relaxation", ["gdas", "fixed"])
def test_a_checkpoint_adapts_as_it_was_trained(
    config: RunConfig, tmp_path: Path, relaxation: str
) -> None:
    genotype = GENOTYPE.to_json() if relaxation == "fixed" else ""
    search = replace(config.search, relaxation=relaxation, genotype=genotype, settle=0)
    space = replace(config.space, partial=2)
    run(replace(config, search=search, space=space), tmp_path, resume=False, on_progress=ignore)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.relaxation == RELAXATIONS[relaxation]
    model = make_model(checkpoint, examples((2, 2, 2), size=12))
    if relaxation == "fixed":
        assert json.dumps(model.report.genotype) == json.dumps(json.loads(GENOTYPE.to_json()))
    card = tmp_path / "checkpoint" / "checkpoint.json"
    card.write_text(card.read_text().replace(f'"{relaxation}"', '"mystery"'))
    with pytest.raises(UnknownName):
        load_checkpoint(tmp_path / "checkpoint")
