"""Genotypes: JSON both ways, what is refused, distances, and the maximum of the alphas."""

import json
from contextlib import suppress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metanas.errors import InvalidInput
from metanas.nn.ops import OPS
from metanas.spec.genotype import CELL_KINDS, Genotype, Node, derive

NAMES = st.sampled_from(tuple(OPS)) | st.text(min_size=1, max_size=8)


@st.composite
def cells(draw: st.DrawFn, nodes: int) -> tuple[Node, ...]:
    cell: list[Node] = []
    for index in range(nodes):
        left, right = draw(st.sampled_from(list(combinations(range(index + 2), 2))))
        cell.append(((left, draw(NAMES)), (right, draw(NAMES))))
    return tuple(cell)


GENOTYPES = st.integers(0, 5).flatmap(lambda n: st.builds(Genotype, cells(n), cells(n)))


@given(GENOTYPES)
def test_json_both_ways(genotype: Genotype) -> None:
    text = genotype.to_json()
    assert Genotype.from_json(text) == genotype
    assert Genotype.from_json(text).to_json() == text
    assert set(json.loads(text)) == set(CELL_KINDS)


@given(GENOTYPES)
def test_distance_to_itself_is_zero(genotype: Genotype) -> None:
    assert genotype.distance(genotype) == 0


def test_distance_counts_edges() -> None:
    node: Node = ((0, "a"), (1, "b"))
    other: Node = ((0, "a"), (1, "c"))
    far: Node = ((0, "c"), (1, "a"))
    assert Genotype((node,), (node,)).distance(Genotype((other,), (node,))) == 1
    assert Genotype((node,), (node,)).distance(Genotype((other,), (far,))) == 3


GOOD = '[[[0,"a"],[1,"b"]]]'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        f'{{"normal":{GOOD}}}',
        f'{{"normal":{GOOD},"reduce":7}}',
        f'{{"normal":{GOOD},"reduce":[[[0,"a"]]]}}',  # one edge
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[1,"b"],[1,"c"]]]}}',  # three
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],["1","b"]]]}}',  # an index that is text
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[true,"b"]]]}}',
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[1.0,"b"]]]}}',
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[1,5]]]}}',  # an operation that is none
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[0,"b"]]]}}',  # the same input twice
        f'{{"normal":{GOOD},"reduce":[[[1,"a"],[0,"b"]]]}}',  # descending
        f'{{"normal":{GOOD},"reduce":[[[0,"a"],[2,"b"]]]}}',  # an input from the future
        f'{{"normal":{GOOD},"reduce":[[[-1,"a"],[1,"b"]]]}}',
    ],
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Genotype.from_json(text)
    assert caught.value.reason == "GENOTYPE_MALFORMED"
    assert "KeyError" not in str(caught.value)


@given(st.text(max_size=40) | st.recursive(st.integers(), st.lists).map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        genotype = Genotype.from_json(text)
        assert Genotype.from_json(genotype.to_json()) == genotype


def test_derive_takes_the_best_pair_and_on_its_edges_the_best_operations() -> None:
    op_logits = [[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [9.0, 0.0], [5.0, 6.0]]
    pair_logits = [0.0, 0.1, 0.7, 0.3]  # node 0: (0, 1); node 1: (0, 1), (0, 2), (1, 2)
    assert derive(op_logits, pair_logits, ("a", "b")) == (
        ((0, "b"), (1, "a")),
        ((0, "b"), (2, "b")),
    )


def test_ties_go_to_the_first() -> None:
    assert derive([[0.0, 0.0]] * 5, [0.0] * 4, ("a", "b"))[1] == ((0, "a"), (1, "a"))
