"""Cells from JSON, as text and as pictures."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metanas_client import ModelFileError, NotWritable
from metanas_client.figures import draw_cells, draw_evaluation
from metanas_client.onnx.cell_layout import GAP, NODE_HEIGHT, PASSING_HEIGHT, lay_out
from metanas_client.onnx.cells import Cell, depths, read_cells, table

OPS = ("conv_3x3", "max_pool_3x3", "skip_connect")


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    nodes = []
    for index in range(draw(st.integers(1, 7))):
        pair = draw(st.lists(st.integers(0, index + 1), min_size=2, max_size=2, unique=True))
        one, other = ((source, draw(st.sampled_from(OPS))) for source in sorted(pair))
        nodes.append((one, other))
    return Cell("normal", tuple(nodes))


def as_json(cell: Cell) -> str:
    return json.dumps({"normal": cell.nodes, "reduce": cell.nodes})


@given(cells())
def test_cells_survive_json(cell: Cell) -> None:
    normal, reduce = read_cells(as_json(cell))
    assert normal == cell
    assert reduce.nodes == cell.nodes
    assert len(table(cell)) == len(cell.nodes)


@given(cells())
def test_a_node_stands_behind_everything_that_it_takes(cell: Cell) -> None:
    columns = [0, 0, *depths(cell)]
    for node, edges in enumerate(cell.nodes):
        assert columns[node + 2] == 1 + max(columns[source] for source, _ in edges)


@given(cells())
def test_in_a_column_nothing_overlaps(cell: Cell) -> None:
    layout = lay_out(cell)
    for column in range(layout.columns[-1]):
        spots = sorted(
            (height, NODE_HEIGHT if layout.columns[spot[0]] == column else PASSING_HEIGHT)
            for spot, height in layout.heights.items()
            if spot[1] == column
        )
        for (low, size), (high, other) in pairwise(spots):
            assert high - low >= (size + other) / 2 + GAP - 1e-9


@given(cells())
def test_every_line_has_a_place_in_every_column_that_it_passes(cell: Cell) -> None:
    layout = lay_out(cell)
    assert len(layout.lines) == 3 * len(cell.nodes)
    for line in layout.lines:
        passed = [column for _, column in line.spots]
        first, last = layout.columns[line.spots[0][0]], layout.columns[line.target]
        assert passed == list(range(first, last))
        assert all(spot in layout.heights for spot in line.spots)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "{}",
        '{"normal": [], "reduce": 7}',
        '{"normal": [[[5, "x"], [0, "y"]]], "reduce": []}',
    ],
)
def test_what_is_no_genotype_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_cells(text)
    assert caught.value.reason == "GENOTYPE_MALFORMED"


def test_pictures_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    cell = Cell("normal", (((0, "conv_3x3"), (1, "skip_connect")), ((1, "zero"), (2, "conv_3x3"))))
    both = (cell, Cell("reduce", cell.nodes))
    for ending in ("svg", "png", "PDF"):
        first, second = tmp_path / f"one.{ending}", tmp_path / f"two.{ending}"
        draw_cells(both, first)
        draw_cells(both, second)
        assert first.read_bytes() == second.read_bytes()
    text = (tmp_path / "one.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.size) > 300


def test_a_network_without_cells_has_nothing_to_draw(tmp_path: Path) -> None:
    assert read_cells('{"normal": [], "reduce": []}') == ()
    with pytest.raises(ModelFileError) as caught:
        draw_cells((), tmp_path / "x.svg")
    assert caught.value.reason == "NO_CELLS"
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_of_one_episode_can_be_drawn(tmp_path: Path) -> None:
    draw_evaluation([{"accuracy": 1.0, "latency": 0.5}], "title", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotWritable) as caught:
        draw_cells((Cell("normal", (((0, "a"), (1, "b")),)),), tmp_path / "x.gif")
    assert caught.value.reason == "PICTURE_FORMAT"
    assert list(tmp_path.iterdir()) == []
