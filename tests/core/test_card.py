"""Cards of checkpoints and reports of adaptations: JSON both ways, and what a digest is of."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metanas.spec.card import (
    CARD_FILE,
    CheckpointCard,
    InputSpec,
    card_json,
    card_markdown,
    digest_of,
    read_card,
)
from metanas.spec.options import AdaptConfig
from metanas.spec.search_space import SearchSpace
from metanas.util import dataclass_json as schema
from metanas_data.metrics import measure
from metanas_data.report import Confusion, LeaveOneOut, Report, SuspiciousImage
from tests.core.small import RUN, TINY

CHECKPOINTS = Path(__file__).parents[2] / "meta_checkpoints"


def card(**changes: Any) -> CheckpointCard:
    values: dict[str, Any] = {
        "name": "tiny",
        "description": "For tests.",
        "input": InputSpec(channels=1, size=12, mean=(0.1,), std=(0.5,), dark_background=True),
        "space": TINY,
        "defaults": AdaptConfig(),
        "augment": RUN.augment,
        "parameters": 12,
        "weights_sha256": "00",
        "scores": {"5-way 1-shot": {"pruned": 97.5, "episodes": 600.0}},
        "provenance": {"data": "none"},
    }
    return CheckpointCard(**{**values, **changes})


def test_cards_survive_json() -> None:
    assert schema.build(CheckpointCard, json.loads(card_json(card()))) == card()
    assert card().ops == TINY.ops


def test_the_digest_is_of_what_decides_the_outcome() -> None:
    told = card(scores={}, provenance={"data": "other"}, description="Another text.")
    assert told.digest == card().digest
    for change in (
        {"weights_sha256": "01"},
        {"defaults": AdaptConfig(steps=3)},
        {"space": SearchSpace(**{**schema.dump(TINY), "nodes": 3})},
    ):
        assert card(**change).digest != card().digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("drawn", "8b2b84ce232d5b9189e55ba1ef09260951ceb2b59c7774b0e6cbd2d137e067d2"),
        ("omniglot", "ac911b696d9bf21b4c018a91a79fb319538b6becf3c228208cffde913c25775b"),
        ("photos", "f951c28978e3fca0b0082f44b5cc466afefc19ab465655070a05799e2084ef55"),
    ],
)
def test_shipped_checkpoints_keep_their_digests(name: str, digest: str) -> None:
    assert read_card(CHECKPOINTS / name).digest == digest


def test_a_new_option_does_not_change_the_digest_of_an_older_file(tmp_path: Path) -> None:
    """The file of an older release lacks the options that were added since."""
    older = json.loads(card_json(card()))
    del older["defaults"]["patience"], older["views"]
    (tmp_path / CARD_FILE).write_text(json.dumps(older))
    found = read_card(tmp_path)
    assert found == card()
    assert found.digest == digest_of(older) != card().digest


def test_a_card_in_memory_has_the_digest_of_its_file(tmp_path: Path) -> None:
    (tmp_path / CARD_FILE).write_text(card_json(card()))
    assert read_card(tmp_path).digest == card().digest


def test_the_page_says_how_often_models_look() -> None:
    assert "| looks |" not in card_markdown(card())
    page = card_markdown(card(defaults=AdaptConfig(shift_pixels=2)))
    assert "| looks | five at each image, four of them shifted by 2 px |" in page


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "checkpoint": "tiny",
        "checkpoint_digest": "ab",
        "support_digest": "cd",
        "seed": 3,
        "options": AdaptConfig().to_dict(),
        "ways": 2,
        "shots": (1, 3),
        "steps": 4,
        "tuning_steps": 2,
        "steps_saved": 0,
        "seconds": {"adapt": 0.5},
        "parameters": 100,
        "macs": 1000,
        "onnx_bytes": 5000,
        "accuracy_soft": 1.0,
        "accuracy_pruned": 0.75,
        "accuracy": 0.8,
        "logit_gap": 0.01,
        "leave_one_out": None,
        "temperature": 0.8,
        "onnx_difference": 1e-6,
        "meta_genotype_distance": 2,
        "genotype": {"normal": [[[0, "a"], [1, "b"]]], "reduce": []},
        "prior": {"tiny": 0.75, "other": 0.25},
        "architecture": {"tiny": 0.75, "other": 0.25},
        "over_budget": 0.125,
    }
    return Report(**{**values, **changes})


ESTIMATE = LeaveOneOut(
    accuracy=0.5,
    low=0.2,
    high=0.8,
    classes=measure(["a", "b"], [0, 1, 1], [0, 0, 1], [0.9, 0.8, 0.7]).classes,
    confusions=(Confusion(label="b", predicted="a", images=1),),
    suspicious=(
        SuspiciousImage(index=1, label="b", looks_like="a", probability=0.01, likely=True),
    ),
    weakest="b",
)


@pytest.mark.parametrize("estimate", [None, ESTIMATE])
def test_reports_become_json(estimate: LeaveOneOut | None) -> None:
    written = report(leave_one_out=estimate)
    assert json.loads(written.to_json()) == json.loads(json.dumps(asdict(written)))
