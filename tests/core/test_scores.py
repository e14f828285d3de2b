"""Accuracies of evaluations on the card of a checkpoint."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metanas.__main__ import main
from metanas.errors import CheckpointError
from metanas.evaluation.scores import add_scores
from metanas.spec.card import CARD_FILE, card_markdown, read_card
from metanas.testing import make_checkpoint
from metanas_data.errors import EvaluationError
from metanas_data.evaluations import write_evaluation

SETTING = "3-way 1-shot, characters.npz val"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "tiny")
    return tmp_path / "tiny"


def evaluation(folder: Path, *accuracies: float, **changes: Any) -> Path:
    card = read_card(folder)
    settings = {
        "dataset": "characters.npz",
        "split": "val",
        "ways": 3,
        "shots": 1,
        "checkpoint_digest": card.digest,
        "options": card.defaults.to_dict(),
    }
    path = folder.parent / "evaluation.json"
    episodes = [{"episode": i, "accuracy": value} for i, value in enumerate(accuracies)]
    write_evaluation(path, {**settings, **changes}, episodes)
    return path


def test_scores_go_into_the_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_card(folder)
    assert main(["scores", str(folder), str(evaluation(folder, 0.5, 0.75, 1.0))]) == 0
    assert capsys.readouterr().out == f"{SETTING}: 75.00 ± 62.10 %, 3 episodes\n"
    after = read_card(folder)
    assert after.scores == {SETTING: {"accuracy": 75.0, "interval95": 62.1, "episodes": 3.0}}
    assert after.digest == before.digest
    assert replace(after, scores={}) == before
    add_scores(folder, [evaluation(folder, 0.5, 0.5, ways=5)])
    add_scores(folder, [evaluation(folder, 1.0, 1.0)])
    found: Mapping[str, Mapping[str, float]] = read_card(folder).scores
    assert {name: figures["accuracy"] for name, figures in found.items()} == {
        SETTING: 100.0,
        SETTING.replace("3-way", "5-way"): 50.0,
    }


def test_scores_keep_the_digest_of_a_file_of_an_older_release(folder: Path) -> None:
    stored = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    del stored["defaults"]["patience"]
    (folder / CARD_FILE).write_text(json.dumps(stored))
    before = read_card(folder).digest
    add_scores(folder, [evaluation(folder, 0.5, 1.0)])
    assert read_card(folder).digest == before


def test_a_page_that_was_made_from_the_card_is_made_again(folder: Path) -> None:
    page = folder / "README.md"
    page.write_text(card_markdown(read_card(folder)), encoding="utf-8")
    add_scores(folder, [evaluation(folder, 0.5, 1.0)])
    assert page.read_text(encoding="utf-8") == card_markdown(read_card(folder))
    assert f"| {SETTING} | accuracy 75, " in page.read_text(encoding="utf-8")
    page.write_text("by hand")
    add_scores(folder, [evaluation(folder, 0.5, 0.5)])
    assert page.read_text() == "by hand"


@pytest.mark.parametrize(
    ("accuracies", "changes", "reason"),
    [
        ((0.5, 1.0), {"checkpoint_digest": "00"}, "EVALUATION_SETTINGS"),
        ((0.5, 1.0), {"options": {"steps": 1}}, "EVALUATION_SETTINGS"),
        ((0.5,), {}, "TOO_FEW_EPISODES"),
    ],
)
def test_what_is_no_score_of_the_checkpoint(
    folder: Path, accuracies: tuple[float, ...], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EvaluationError, match="evaluate") as caught:
        add_scores(folder, [evaluation(folder, *accuracies, **changes)])
    assert caught.value.reason == reason
    assert read_card(folder).scores == {}


def test_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        add_scores(tmp_path / "nothing", [evaluation(folder, 0.5, 1.0)])
    assert caught.value.reason == "CHECKPOINT_MISSING"
