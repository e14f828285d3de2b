"""Plain data as dataclasses and back, with every wrong key named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanas.errors import InvalidInput
from metanas.util import dataclass_json as schema
from tests.core.small import findings


@dataclass(frozen=True, kw_only=True)
class Inner:
    number: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    flag: bool
    inner: Inner
    pair: tuple[int, int] = (1, 2)
    maybe: float | None = None
    table: Mapping[str, int | bool] = field(default_factory=dict)
    anything: Any = None


OUTERS = st.builds(
    Outer,
    flag=st.booleans(),
    inner=st.builds(
        Inner,
        number=st.floats(allow_nan=False),
        names=st.lists(st.text()).map(tuple),
    ),
    pair=st.tuples(st.integers(), st.integers()),
    maybe=st.none() | st.floats(allow_nan=False),
    table=st.dictionaries(st.text(), st.integers() | st.booleans()),
)


@given(OUTERS)
def test_dataclasses_survive_json(value: Outer) -> None:
    assert schema.build(Outer, json.loads(json.dumps(schema.dump(value)))) == value


def test_all_wrong_keys_are_reported_at_once() -> None:
    raw = {
        "flag": 1,
        "inner": {"names": ["a", 3], "nmber": 2.0},
        "pair": [1, 2, 3],
        "maybe": "x",
        "table": {"a": 1.5},
        "colour": "red",
    }
    with pytest.raises(InvalidInput) as caught:
        schema.build(Outer, raw)
    assert findings(caught) == {
        ("colour", "CONFIG_UNKNOWN_KEY"),
        ("flag", "CONFIG_TYPE"),
        ("inner.number", "CONFIG_MISSING_KEY"),
        ("inner.names", "CONFIG_TYPE"),
        ("inner.nmber", "CONFIG_UNKNOWN_KEY"),
        ("pair", "CONFIG_TYPE"),
        ("maybe", "CONFIG_TYPE"),
        ("table.a", "CONFIG_TYPE"),
    }


def test_a_list_is_asked_for_by_the_name_that_it_has_in_files() -> None:
    with pytest.raises(InvalidInput, match="expected list, got 'a'"):
        schema.build(Inner, {"number": 1.0, "names": "a"})


def test_whole_numbers_are_numbers() -> None:
    built = schema.build(Outer, {"flag": True, "inner": {"number": 3}, "maybe": 2})
    assert (built.inner.number, built.maybe) == (3.0, 2.0)
    assert type(built.inner.number) is type(built.maybe) is float


@pytest.mark.parametrize("raw", [None, 3, "flag", ["flag"]])
def test_only_an_object_of_keys_is_built(raw: object) -> None:
    with pytest.raises(InvalidInput, match="expected an object of keys") as caught:
        schema.build(Outer, raw)
    assert caught.value.reason == "CONFIG_TYPE"


def test_differences_are_named_by_section() -> None:
    there = Outer(flag=True, inner=Inner(number=1.0))
    here = replace(there, flag=False, inner=Inner(number=2.0), pair=(3, 4))
    assert schema.differences(there, here, free=("pair",)) == [
        "flag is true there and false here",
        "inner.number is 1.0 there and 2.0 here",
    ]
    assert schema.differences(there, there) == []
