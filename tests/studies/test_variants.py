"""Variants are trained, evaluated and compared, and resume after an interruption."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.harness.results import Results, Row, load
from metanas.checkpoint import load_checkpoint
from metanas.spec.options import AdaptConfig
from metanas.training.config_file import read_config
from metanas.util import dataclass_json as schema
from studies import variants
from studies.evaluations import BOTH, NONE, WEIGHTS
from studies.intervals import over
from studies.training import COST_FILE, GROUPS, drawn_genotype
from tests.core.small import GENOTYPE, RUN, synthetic

STUDY = Path(__file__).parents[2] / "configs" / "study-omniglot.toml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny configuration and a data set."""
    folder = tmp_path_factory.mktemp("variants")
    classes = synthetic(12, 8, size=12)
    np.savez(
        folder / "data.npz",
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        split=np.array(["train", "val"] * 6),
    )
    adapt = AdaptConfig(steps=2, tuning_steps=1, alpha_lr=0.5, weight_lr=0.01)
    config = replace(RUN, adapt=adapt, train=replace(RUN.train, iterations=3))
    (folder / "tiny.json").write_text(json.dumps(schema.dump(config)), encoding="utf-8")
    return folder


def arguments(folder: Path, group: str, *more: str) -> list[str]:
    given = [group, "--data", folder / "data.npz", "--config", folder / "tiny.json"]
    given += ["--runs", folder / "runs", "--work", folder / "work", "--scale", "0.01"]
    out = folder / "study" / f"{group}.json"
    given += ["--seeds", "2", "--shapes", "3x1", "--out", out]
    return [*map(str, given), *more]


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    assert variants.main(arguments(folder, "relaxations")) == 0
    return load(folder / "study" / "relaxations.json")


def test_every_variant_is_the_configuration_but_for_its_choice() -> None:
    base = read_config(STUDY)
    for group in GROUPS.values():
        runs = [variant.run for variant in group.values()]
        assert len(runs) == len(set(runs))
        for variant in group.values():
            alone = variant.genotype_of is not None or variant.drawn
            genotype = [f"search.genotype = '{GENOTYPE.to_json()}'"] * alone
            config = read_config(STUDY, [*variant.overrides, *genotype])
            assert (config.data, config.task, config.input) == (base.data, base.task, base.input)
            assert config.train.iterations == base.train.iterations
            assert (config == base) == (not variant.overrides)


def test_variants_are_trained_and_meet_the_same_episodes(results: Results, folder: Path) -> None:
    names = list(GROUPS["relaxations"])
    assert list(dict.fromkeys(row["checkpoint"] for row in results.rows)) == names
    trained = {(row["checkpoint"], row["training"]) for row in results.rows}
    assert trained == {(name, seed) for name in names for seed in (0, 1)}
    for row in results.rows:
        assert row["seconds"] > 0
        assert len(row["accuracy"]) == 2
        assert row["searched"] == (row["checkpoint"] != "fixed")
    spent = (folder / "runs" / "base-0" / COST_FILE).read_text(encoding="utf-8").splitlines()
    assert len(spent) == 1 + 3, "the settings, and a line an iteration"


def test_trainings_differ_in_their_seed_and_share_it_between_variants(
    results: Results, folder: Path
) -> None:
    checkpoints = {
        run: load_checkpoint(folder / "runs" / run / "checkpoint")
        for run in ("base-0", "base-1", "fixed-0", "fixed-1")
    }
    for seed in "01":
        searched, fixed = checkpoints[f"base-{seed}"], checkpoints[f"fixed-{seed}"]
        assert searched.card.provenance["seed"] == seed
        assert fixed.meta_genotype == searched.meta_genotype
    assert checkpoints["base-0"].meta_genotype != checkpoints["base-1"].meta_genotype
    one, other = checkpoints["base-0"].params, checkpoints["base-1"].params
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_random_architectures_are_drawn_from_all(folder: Path) -> None:
    space = RUN.space
    genotypes = [drawn_genotype(space, seed) for seed in range(200)]
    assert genotypes[0] == drawn_genotype(space, 0)
    for index in range(space.nodes):
        edges = {edge for each in genotypes for edge in each.normal[index] + each.reduce[index]}
        assert edges == {(source, op) for source in range(index + 2) for op in space.ops}
    assert variants.main(arguments(folder, "genotypes")) == 0
    for seed in (0, 1):
        checkpoint = load_checkpoint(folder / "runs" / f"drawn-{seed}" / "checkpoint")
        assert checkpoint.meta_genotype == drawn_genotype(space, seed)
    rows = load(folder / "study" / "genotypes.json").rows
    assert {row["searched"] for row in rows} == {False}


def test_finished_trainings_and_evaluations_do_not_run_again(
    results: Results, folder: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert variants.main(arguments(folder, "relaxations")) == 0
    assert load(folder / "study" / "relaxations.json").rows == results.rows
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl")}
    assert {p: t for p, t in after.items() if p.name != "log.jsonl"} == {
        p: t for p, t in before.items() if p.name != "log.jsonl"
    }


def test_some_variants_alone(results: Results, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.json"
    call = ["--only", "DARTS", "GDAS", "--out", str(out)]
    assert variants.main(arguments(folder, "relaxations", *call)) == 0
    expected = [row for row in results.rows if row["checkpoint"] in ("DARTS", "GDAS")]
    assert load(out).rows == expected
    assert "less DARTS, points" in variants.tables(load(out))["accuracy"]


def test_a_group_needs_no_other_group(results: Results, folder: Path) -> None:
    rows = {(row["checkpoint"], row["setting"]) for row in results.rows}
    assert ("DARTS", BOTH) in rows
    assert ("DARTS", WEIGHTS) in rows
    assert not (folder / "study" / "learners.json").exists()


def row(name: str, training: int, setting: str, accuracy: list[float]) -> Row:
    """Return a row for the tables."""
    return {
        "checkpoint": name,
        "training": training,
        "setting": setting,
        "shape": "5x1",
        "accuracy": accuracy,
        "searched": True,
        "overrides": [],
        "seconds": 10.0 + training,
        "moved": [0.0, 1.0],
        "parameters": [1000, 1000],
        "macs": [1_000_000, 1_000_000],
    }


def test_a_lead_of_one_training_alone_is_inconclusive() -> None:
    """It is clear on the episodes of each training, but not over trainings."""
    rows = [
        row(name, training, setting, [level, level + 0.02])
        for setting in (BOTH, WEIGHTS, NONE)
        for name, levels in {"A": (0.5, 0.5), "B": (0.8, 0.4), "C": (0.8, 0.81)}.items()
        for training, level in enumerate(levels)
    ]
    shown = variants.tables(Results("variants", {}, rows))
    rows_of_table = shown["accuracy"].splitlines()[2:]
    outcomes = [[cell.strip() for cell in line.split("|")][7] for line in rows_of_table]
    assert outcomes == ["", "inconclusive", "gain"]
    assert "41.0 to 81.0" in shown["accuracy"]
    assert "-10.0 to +30.0" in shown["accuracy"]
    assert "10.5 (10.0 to 11.0)" in shown["training"]


@pytest.mark.parametrize(
    ("training", "episode", "rest"), [(3, 0, 0), (0, 3, 0), (0, 0, 3), (3, 1, 5), (1, 1, 1)]
)
def test_intervals_hold_for_other_trainings_and_other_episodes(
    training: float, episode: float, rest: float
) -> None:
    """At least 95 % of them hold the truth, wherever the spread comes from."""
    random, drawn, trainings, episodes = np.random.default_rng(0), 1000, 3, 200
    figures = random.normal(scale=rest, size=(drawn, trainings, episodes))
    figures += random.normal(scale=training, size=(drawn, trainings, 1))
    figures += random.normal(scale=episode, size=(drawn, 1, episodes))
    assert np.mean([over(each).sign == 0 for each in figures]) > 0.935


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--shapes", "3"], "OPTION_OUT_OF_RANGE"),
        (["--only", "DARTS", "TNAS"], "OPTION_OUT_OF_RANGE"),
        (["--data", "nowhere.npz"], "DATASET_MISSING"),
        (["--set", "train.iteratons = 5"], "CONFIG_UNKNOWN_KEY"),
        (["--set", "train.iterations = 5"], "CHECKPOINT_FORMAT"),
        (["--seeds", "1"], "OPTION_OUT_OF_RANGE"),
    ],
)
def test_bad_input(
    results: Results, folder: Path, more: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert variants.main(arguments(folder, "relaxations", *more)) == 2
    assert f"[{reason}]" in capsys.readouterr().err
