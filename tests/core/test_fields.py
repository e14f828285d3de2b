"""Declared options: types, bounds, their words, and all that is refused."""

from dataclasses import MISSING, dataclass
from typing import Annotated, Any

import pytest

from metanas.errors import InvalidInput
from metanas.util.fields import Count, OneOf, Positive, Range, check, describe, require
from tests.core.small import findings


@dataclass(frozen=True, kw_only=True)
class Options:
    path: str
    """A text without bounds,
    on two lines."""
    steps: Annotated[int, Range(0, 500)] = 10
    rate: Annotated[float, Range(least=0, below=1)] = 0.5
    scale: float = 1.0
    flag: bool = False
    order: Annotated[str, OneOf(("first", "second"))] = "first"
    widths: tuple[Count, ...] = (4, 8)
    pair: tuple[Positive, Positive] = (1.0, 2.0)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("path", ("", "a")),
        ("steps", (0, 500)),
        ("rate", (0, 0.0, 0.999)),
        ("scale", (-3, 1e300)),
        ("flag", (True, False)),
        ("order", ("first", "second")),
        ("widths", ((), (1,), (1, 2, 3))),
        ("pair", ((1, 0.5),)),
    ],
)
def test_values_within_bounds(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        assert getattr(Options(**{"path": "", name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("path", (None, 3)),
        ("steps", (-1, 501, 2.0, True, "3", None)),
        ("rate", (-0.1, 1, float("nan"), float("inf"), True, "0.5")),
        ("scale", (float("nan"), float("inf"), -float("inf"), False)),
        ("flag", (0, 1, "yes", None)),
        ("order", ("third", "", None)),
        ("widths", (3, [1], (1, 0), (1, 2.0))),
        ("pair", ((1.0,), (1.0, 2.0, 3.0), (0.0, 1.0))),
    ],
)
def test_values_out_of_bounds(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(InvalidInput) as caught:
            Options(**{"path": "", name: value})
        assert findings(caught) == {(name, "OPTION_OUT_OF_RANGE")}
        assert repr(value) in str(caught.value)


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        Options(path="", steps=-1, order="third")
    messages = "steps: must be an integer from 0 to 500, not -1; "
    messages += 'order: must be one of "first", "second", not \'third\''
    assert str(caught.value) == messages


def test_conditions_that_do_not_hold_are_reported() -> None:
    require(("a", True, "is fine"))
    with pytest.raises(InvalidInput, match="b: must be more; c: must be less"):
        require(("a", True, "is fine"), ("b", False, "must be more"), ("c", False, "must be less"))


def test_declarations_are_read() -> None:
    declared = {each.name: each for each in describe(Options)}
    assert {name: each.kind for name, each in declared.items()} == {
        "path": "string",
        "steps": "integer from 0 to 500",
        "rate": "number >= 0, < 1",
        "scale": "number",
        "flag": "boolean",
        "order": 'one of "first", "second"',
        "widths": "list of integers >= 1",
        "pair": "two numbers > 0",
    }
    assert (declared["path"].default, declared["steps"].default) == (MISSING, 10)
    assert declared["path"].help == "A text without bounds, on two lines."
    assert declared["scale"].help == ""
