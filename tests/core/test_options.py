"""Options of an adaptation: bounds, overrides, unknown names."""

from dataclasses import fields
from typing import Any

import pytest

from metanas.errors import InvalidInput
from metanas.spec.options import AdaptConfig
from tests.core.small import findings

NAN, INF = float("nan"), float("inf")

BAD_OPTIONS: dict[str, list[Any]] = {
    "steps": [-1, 501, 2.0, True, "3", None],
    "tuning_steps": [-1, 501, 2.0, False],
    "weight_lr": [-0.1, 1.1, NAN, INF, "fast", True],
    "alpha_lr": [-0.1, 1.1, NAN],
    "temperature_start": [0, -1.0, 10.1, NAN, INF, "hot"],
    "temperature_end": [0, -1.0, 10.1, NAN, "cold"],
    "batch_size": [0, 1001, 1.5],
    "gradient_clip": [0, -1, 1e7, NAN],
    "patience": [-1, 501, 1.5, True],
    "bilevel": [1, 0, "yes", None],
    "shift_pixels": [-1, 17, 1.0, True],
    "head": ["", "Ridge", "linear", 1, None],
    "precision": ["", "int4", "FP16", 16, None],
    "max_macs": [-1, 2_000_000_001, 1.5, True],
    "max_parameters": [-1, 2_000_000_001, "1e6"],
    "max_bytes": [-1, 2_000_000_001, 1e6],
    "max_milliseconds": [-0.1, 1e7, NAN, INF],
}
GOOD_OPTIONS: dict[str, list[Any]] = {
    "steps": [0, 500],
    "tuning_steps": [0, 500],
    "weight_lr": [0, 1, 0.0, 1.0],
    "alpha_lr": [0, 1],
    "temperature_start": [10, 0.02],
    "temperature_end": [1.0, 0.001],
    "batch_size": [1, 1000],
    "gradient_clip": [1e-9, 1_000_000],
    "patience": [0, 500],
    "bilevel": [True, False],
    "shift_pixels": [0, 16],
    "head": ["prototype", "ridge"],
    "precision": ["float32", "fp16", "int8"],
    "max_macs": [0, 2_000_000_000],
    "max_parameters": [0, 2_000_000_000],
    "max_bytes": [0, 2_000_000_000],
    "max_milliseconds": [0, 0.5, 1_000_000],
}


def test_the_tables_cover_every_option() -> None:
    assert {f.name for f in fields(AdaptConfig)} == BAD_OPTIONS.keys() == GOOD_OPTIONS.keys()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD_OPTIONS.items() for value in values]
)
def test_options_out_of_bounds(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        AdaptConfig().replace({name: value})
    assert (f"options.{name}", "OPTION_OUT_OF_RANGE") in findings(caught)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in GOOD_OPTIONS.items() for value in values]
)
def test_options_at_their_bounds(name: str, value: Any) -> None:
    assert AdaptConfig().replace({name: value}).to_dict()[name] == value


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        AdaptConfig(steps=-1, weight_lr=2.0)
    assert {name for name, _ in findings(caught)} == {"steps", "weight_lr"}


def test_the_temperature_does_not_rise() -> None:
    with pytest.raises(InvalidInput) as caught:
        AdaptConfig(temperature_start=0.1, temperature_end=0.2)
    assert findings(caught) == {("temperature_end", "OPTION_OUT_OF_RANGE")}


def test_unknown_options_are_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        AdaptConfig().replace({"stepz": 3, "steps": 5, "momentum": 0.9})
    assert findings(caught) == {
        ("options.stepz", "OPTION_UNKNOWN"),
        ("options.momentum", "OPTION_UNKNOWN"),
    }
    assert "weight_lr" in str(caught.value)
