"""Configurations of a run: the file, overrides, and everything that is out of bounds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanas.errors import InvalidInput
from metanas.runs.log import CONFIG_FILE
from metanas.spec.card import read_card
from metanas.training.config import RunConfig, TaskConfig, TrainConfig
from metanas.training.config_file import read_config
from metanas.util import dataclass_json as schema
from tests.core.small import GENOTYPE, RUN, TINY, findings

SHIPPED = Path(__file__).parents[2] / "configs" / "omniglot.toml"
CHECKPOINTS = Path(__file__).parents[2] / "meta_checkpoints"
NAN = float("nan")


def toml(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


TRAININGS = sorted(set(SHIPPED.parent.glob("*.toml")) - {SHIPPED.with_name("universal.toml")})


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_sound(path: Path) -> None:
    config = read_config(path)
    assert schema.build(RunConfig, schema.dump(config)) == config
    assert config.name == path.stem


@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.glob("*/")), ids=lambda path: path.name)
def test_shipped_checkpoints_are_those_of_their_configurations(folder: Path) -> None:
    config = read_config(SHIPPED.parent / f"{folder.name}.toml")
    trained, card = read_config(folder / CONFIG_FILE), read_card(folder)
    told = replace(config.data, path=trained.data.path, more=trained.data.more)
    assert trained == replace(config, data=told)  # they name data sets without their folders
    assert (card.space, card.input, card.defaults) == (config.space, config.input, config.adapt)


def test_overrides_have_the_last_word() -> None:
    overrides = ['name = "mine"', "train.iterations = 700", "task.ways = [3, 4]", "adapt.steps=1"]
    config = read_config(SHIPPED, overrides)
    assert (config.name, config.train.iterations, config.task.ways) == ("mine", 700, (3, 4))
    assert config.adapt.steps == 1
    assert config.search.settle == read_config(SHIPPED).search.settle


@pytest.mark.parametrize(
    "override", ["train.iterations", "train.iterations = ", "name = mine", "x = [1"]
)
def test_overrides_that_are_no_toml(override: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_config(SHIPPED, [override])
    assert caught.value.reason == "CONFIG_UNREADABLE"


@pytest.mark.parametrize(
    ("override", "field", "reason"),
    [
        ("train.iteratons = 5", "train.iteratons", "CONFIG_UNKNOWN_KEY"),
        ("colour = 5", "colour", "CONFIG_UNKNOWN_KEY"),
        ("train.iterations = 5.5", "train.iterations", "CONFIG_TYPE"),
        ("train = 5", "train", "CONFIG_TYPE"),
        ("task.ways = [5]", "task.ways", "CONFIG_TYPE"),
        ("adapt.steps = 501", "adapt.steps", "OPTION_OUT_OF_RANGE"),
        ("adapt.shift_pixels = 9", "adapt.shift_pixels", "OPTION_OUT_OF_RANGE"),
        ("search.warm_up = 20000", "search.warm_up", "OPTION_OUT_OF_RANGE"),
        ("search.temperature_end = 1e-320", "search.temperature_end", "OPTION_OUT_OF_RANGE"),
        ("train.seed = 9223372036854775808", "train.seed", "OPTION_OUT_OF_RANGE"),
        ('name = "a\\u0000b"', "name", "OPTION_OUT_OF_RANGE"),
        ("search.settle = 60", "search.settle", "OPTION_OUT_OF_RANGE"),
        ("train.iterations = 239", "search.settle", "OPTION_OUT_OF_RANGE"),
        ('train.meta_learner = "maml"', "train.task_optimizer", "OPTION_OUT_OF_RANGE"),
        ('train.task_optimizer = "sgd"', "train.task_optimizer", "OPTION_OUT_OF_RANGE"),
        ("space.nodes = 0", "space.nodes", "OPTION_OUT_OF_RANGE"),
        ("input.channels = 3", "input.channels", "OPTION_OUT_OF_RANGE"),
        ("task.ways = [5, 3]", "task.ways", "OPTION_OUT_OF_RANGE"),
        ("train.validate_every = 0", "train.validate_every", "OPTION_OUT_OF_RANGE"),
        ("task.images = 119", "task.images", "OPTION_OUT_OF_RANGE"),
        ("task.groups = -1", "task.groups", "OPTION_OUT_OF_RANGE"),
        ("augment.rotation = nan", "augment.rotation", "OPTION_OUT_OF_RANGE"),
        ("augment.scale = -7.5", "augment.scale", "OPTION_OUT_OF_RANGE"),
        ('data.more = ["other/omniglot_28.npz"]', "data.more", "OPTION_OUT_OF_RANGE"),
        ('data.unreadable = "maybe"', "data.unreadable", "OPTION_OUT_OF_RANGE"),
    ],
)
def test_wrong_values_in_a_configuration(override: str, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_config(SHIPPED, [override])
    assert (field, reason) in findings(caught)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.iteratons = 5", "train.iteratons: no such key. Did you mean iterations?"),
        ("trian.iterations = 5", "trian: no such key. Did you mean train?"),
        ("input.colour = 5", "no such key. Known: channels, size, mean, std, dark_background."),
        ("data = 3", "data: expected a table of keys, got 3"),
        ("train.weight_lr = inf", "train.weight_lr: must be a number >= 0, not inf"),
        ("space.ops = []", "space.ops: must be distinct names"),
        ("input.size = 1", "input.size: must be an integer from 8 to 512, not 1"),
        ("search.warm_up = 20000", "search.warm_up: must be below train.iterations = "),
    ],
)
def test_what_is_said_of_wrong_values(override: str, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_config(SHIPPED, [override])
    assert told in str(caught.value)


def test_without_a_search_there_is_no_schedule() -> None:
    search = replace(RUN.search, relaxation="fixed", genotype=GENOTYPE.to_json(), warm_up=99)
    assert replace(RUN, search=search).search.warm_up > RUN.train.iterations
    broken = replace(search, genotype='{"normal": []}')
    with pytest.raises(InvalidInput) as caught:
        replace(RUN, search=broken)
    assert findings(caught) == {("search.genotype", "GENOTYPE_MALFORMED")}


def test_meta_learners_of_others_have_the_steps_that_they_say() -> None:
    for steps in ("adam", "sgd"):
        train = replace(RUN.train, meta_learner="mine", task_optimizer=steps)
        assert train.task_optimizer == steps


def test_json_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    path.write_text("[1]")
    with pytest.raises(InvalidInput, match="is a JSON list") as caught:
        read_config(path)
    assert caught.value.reason == "CONFIG_UNREADABLE"


def test_a_missing_key_and_everything_else_that_is_wrong(tmp_path: Path) -> None:
    text = SHIPPED.read_text().replace("iterations", "iteratons").replace("nodes = 3", "nodes = 9")
    with pytest.raises(InvalidInput) as caught:
        read_config(toml(tmp_path, text))
    assert findings(caught) >= {
        ("train.iterations", "CONFIG_MISSING_KEY"),
        ("train.iteratons", "CONFIG_UNKNOWN_KEY"),
        ("space.nodes", "OPTION_OUT_OF_RANGE"),
    }


@pytest.mark.parametrize("text", ["name = ", "[a\n", 'name = "x"\nname = "y"\n'])
def test_what_is_no_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_config(toml(tmp_path, text))
    assert caught.value.reason == "CONFIG_UNREADABLE"


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(InvalidInput) as caught:
            read_config(path)
        assert caught.value.reason == "CONFIG_UNREADABLE"
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("train", {"iterations": 0}),
        ("train", {"threads": 1025}),
        ("search", {"share_threshold": 1.0}),
        ("train", {"tasks": 0}),
        ("train", {"stack": -1}),
        ("train", {"weight_lr": NAN}),
        ("train", {"beta1": 1.0}),
        ("train", {"gradient_clip": 0.0}),
        ("train", {"seed": -1}),
        ("train", {"validation_episodes": 0}),
        ("train", {"outer": "lion"}),
        ("train", {"drop_path": 1.0}),
        ("train", {"snapshot_every": 0}),
        ("train", {"snapshot_seconds": 0.0}),
        ("train", {"log_every": 0}),
        ("search", {"keep": 0}),
        ("search", {"warm_up": -1}),
        ("search", {"temperature_end": 0.0}),
        ("search", {"temperature_end": 0.6}),
        ("search", {"op_span": -0.1}),
        ("search", {"order": "third"}),
        ("search", {"prune_threshold": 1.0}),
        ("data", {"path": ""}),
        ("search", {"genotype": "{}"}),
        ("photo", {"crop": 0.0}),
        ("photo", {"saturation": 1.5}),
    ],
)
def test_training_settings_out_of_bounds(section: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(getattr(RUN, section), **change)
    assert findings(caught) == {(next(iter(change)), "OPTION_OUT_OF_RANGE")}


def test_steps_for_sgd_are_refused_for_adam() -> None:
    """Every weight would move by 1 in each iteration, whatever its gradient."""
    with pytest.raises(InvalidInput) as caught:
        replace(RUN.train, meta_learner="fomaml", task_optimizer="sgd", outer="adam")
    names = {"meta_lr_weights", "meta_lr_alphas"}
    assert findings(caught) == {(name, "OPTION_OUT_OF_RANGE") for name in names}
    assert "1e-3 is usual" in str(caught.value)
    small = replace(RUN.train, outer="adam", meta_lr_weights=1e-3, meta_lr_alphas=1e-2)
    assert small.outer == "adam"


def test_reptile_learns_rates_from_the_second_step_on() -> None:
    train, task = replace(RUN.train, learned_rates=True), replace(RUN.task, steps=1)
    with pytest.raises(InvalidInput) as caught:
        replace(RUN, train=train, task=task)
    assert findings(caught) == {("task.steps", "OPTION_OUT_OF_RANGE")}
    maml = replace(train, meta_learner="maml", task_optimizer="sgd")
    assert replace(RUN, train=maml, task=task).train.learned_rates


@pytest.mark.parametrize(
    "change", [{"ways": (1, 5)}, {"shots": ()}, {"shots": (1, 0)}, {"images": 0}, {"steps": 0}]
)
def test_task_settings_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(TaskConfig(), **change)
    assert findings(caught) == {(next(iter(change)), "OPTION_OUT_OF_RANGE")}


def test_the_defaults_are_within_bounds() -> None:
    assert TrainConfig(iterations=1).tasks == 1
    assert TaskConfig().steps > 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"input_channels": 2}, "input_channels"),
        ({"ops": ()}, "ops"),
        ({"ops": ("a", "a")}, "ops"),
        ({"channels": ()}, "channels"),
        ({"channels": (1, 6)}, "channels"),
        ({"reductions": (2,)}, "reductions"),
        ({"reductions": (-1,)}, "reductions"),
        ({"nodes": 0}, "nodes"),
        ({"nodes": 7}, "nodes"),
        ({"stem_channels": ()}, "stem_channels"),
        ({"stem_channels": (0, 8)}, "stem_channels"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"grid": 3}, "grid"),
        ({"trunk": "efficientnet-lite0", "stem_channels": (8, 16)}, "stem_channels"),
        ({"trunk": "efficientnet-lite0", "stem_stride": 2}, "stem_channels"),
    ],
)
def test_search_spaces_out_of_bounds(change: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(TINY, **change)
    assert (name, "OPTION_OUT_OF_RANGE") in findings(caught)


def test_the_space_knows_its_sizes() -> None:
    assert (TINY.cells, TINY.features) == (2, 48)
    assert replace(TINY, grid=1).features == 12
    assert TINY.sides(13) == (7, 4, 4)


@pytest.mark.parametrize(
    "change", [{"size": 7}, {"size": 513}, {"mean": (0.0, 0.0)}, {"std": ()}, {"std": (0.0,)}]
)
def test_inputs_that_do_not_fit(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(RUN, input=replace(RUN.input, **change))
    (name,) = change
    assert findings(caught) & {
        (name, "OPTION_OUT_OF_RANGE"),
        (f"input.{name}", "OPTION_OUT_OF_RANGE"),
    }


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a"])
def test_a_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        replace(RUN, name=name)
    assert findings(caught) == {("name", "OPTION_OUT_OF_RANGE")}


def test_maps_without_quarters() -> None:
    space = replace(TINY, channels=(6, 6, 6), reductions=(0, 1, 2))
    with pytest.raises(InvalidInput) as caught:
        replace(RUN, space=space, input=replace(RUN.input, size=8))
    assert ("input.size", "OPTION_OUT_OF_RANGE") in findings(caught)
    replace(RUN, space=replace(space, grid=1), input=replace(RUN.input, size=8))
