"""Checkpoints that runs leave, and that they start from."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError, UnknownName
from metanas.runs.run import run
from metanas.spec.genotype import CELL_KINDS
from metanas.supernet.relaxations import RELAXATIONS
from metanas.training.config import RunConfig
from metanas.training.config_file import read_config
from metanas.training.dataset import classes_of
from metanas.training.trainer import MetaTrainer
from tests.core.running import ignore, without_data
from tests.core.small import GENOTYPE, examples


def test_a_checkpoint_has_its_model_card(config: RunConfig, tmp_path: Path) -> None:
    run(config, tmp_path, resume=False, on_progress=ignore)
    page = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert page.startswith("---\nlibrary_name: metanas\n")
    assert f"\n# {config.name}\n" in page
    for fact in (config.description, "reptile", "skip_connect", "% pruned", "none"):
        assert fact in page


def test_the_configuration_travels_with_the_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    run(config, tmp_path, resume=False, on_progress=ignore)
    again = read_config(tmp_path / "checkpoint" / "training.json")
    assert again.train == config.train
    assert again.search == config.search
    assert "/" not in again.data.path


def test_a_run_starts_from_a_checkpoint(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    settings = replace(config.train, iterations=1, start=str(finished / "checkpoint"))
    frozen = replace(settings, meta_lr_weights=0.0, meta_lr_alphas=0.0)
    search = replace(config.search, warm_up=0, settle=0)
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


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"learned_rates": True}, True),
        ({"learned_rates": False}, False),
        ({"learned_rates": True, "meta_learner": "reptile", "task_optimizer": "adam"}, False),
    ],
)
def test_learned_rates_go_on_where_they_mean_the_same(
    config: RunConfig, finished: Path, changes: dict[str, Any], kept: bool
) -> None:
    settings = replace(config.train, meta_learner="fomaml", task_optimizer="sgd")
    made = load_checkpoint(finished / "checkpoint")
    rates = dict.fromkeys(made.params, 10.0)
    start = replace(made, card=replace(made.card, rates=rates, task_optimizer="sgd"))
    trainer = MetaTrainer(replace(config, train=replace(settings, **changes)), *classes_of(config))
    trainer.start_from(start)
    expected = math.log(10.0) if kept else 0.0
    torch.testing.assert_close(trainer.factors, torch.full_like(trainer.factors, expected))


def test_a_run_does_not_start_from_another_search_space(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    settings = replace(config.train, start=str(finished / "checkpoint"))
    other = replace(without_data(config), train=settings, space=replace(config.space, nodes=3))
    told = r"another \[space\]: nodes is 2 there and 3 here$"
    with pytest.raises(CheckpointError, match=told) as caught:
        run(other, tmp_path / "other", resume=False, on_progress=ignore)
    assert caught.value.reason == "CHECKPOINT_FORMAT"
    assert not (tmp_path / "other").exists()
    darker = replace(
        without_data(config),
        train=settings,
        input=replace(config.input, std=(0.5,), dark_background=True),
    )
    told = r"another \[input\]: std is \[1.0\] there and \[0.5\] here; dark_background is"
    with pytest.raises(CheckpointError, match=told):
        run(darker, tmp_path / "other", resume=False, on_progress=ignore)
    missing = replace(config, train=replace(settings, start=str(tmp_path / "nowhere")))
    with pytest.raises(CheckpointError, match="nowhere"):
        run(missing, tmp_path / "other", resume=False, on_progress=ignore)


def test_learned_rates_and_plain_steps_go_with_the_checkpoint(
    config: RunConfig, tmp_path: Path
) -> None:
    settings = replace(
        config.train, meta_learner="fomaml", learned_rates=True, task_optimizer="sgd"
    )
    run(replace(config, train=settings), tmp_path, resume=False, on_progress=ignore)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.card.task_optimizer == "sgd"
    assert checkpoint.card.rates.keys() == checkpoint.params.keys()
    assert len({round(rate, 6) for rate in checkpoint.card.rates.values()}) > 3
    plain = replace(checkpoint, card=replace(checkpoint.card, rates={}))
    support = examples((2, 2, 2), size=12)
    assert adapt(checkpoint, support).onnx != adapt(plain, support).onnx


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
    model = adapt(checkpoint, examples((2, 2, 2), size=12))
    if relaxation == "fixed":
        assert json.dumps(model.report.genotype) == json.dumps(json.loads(GENOTYPE.to_json()))
    card = tmp_path / "checkpoint" / "checkpoint.json"
    card.write_text(card.read_text().replace(f'"{relaxation}"', '"mystery"'))
    with pytest.raises(UnknownName):
        load_checkpoint(tmp_path / "checkpoint")
