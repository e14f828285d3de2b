"""Budgets: limits on the costs of a model, and the choice of branches within them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from PIL import ImageDraw

from metanas.__main__ import main
from metanas.adaptation.budget import largest_fitting
from metanas.adaptation.scheduler import adapt
from metanas.adaptation.universal import UniversalSpace, load_universal
from metanas.checkpoint import load_checkpoint
from metanas.errors import InvalidInput
from metanas.images.support_set import Image
from metanas.spec.budget import Footprint, too_small
from metanas.spec.examples import Example
from metanas.spec.options import Option
from metanas.spec.universal import (
    UNIVERSAL_FILE,
    milliseconds_of_branches,
    read_universal,
    universal_json,
)
from metanas_data.report import Report
from tests.core.small import findings
from tests.core.test_universal import BRANCHES, balanced, examples_of, photos
from tests.core.test_universal import folder as folder

SHARES = {"small": 0.1, "large": 0.5, "frozen": 0.25, "grey": 0.15}
MILLISECONDS = {"small": 2.0, "large": 4.0, "frozen": 3.0, "last": 3.0, "grey": 1.0}
COSTS = ("macs", "parameters", "onnx_bytes")
OPTIONS = {"macs": "max_macs", "parameters": "max_parameters", "onnx_bytes": "max_bytes"}

branches = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.floats(1e-6, 1), st.integers(1, 1000)),
    min_size=1,
)


@given(branches, st.floats(0, 0.16), st.integers(1, 3000))
def test_the_largest_share_that_fits_is_taken(
    table: Mapping[str, tuple[float, int]], least: float, limit: int
) -> None:
    total = sum(share for share, _ in table.values())
    prior = {name: share / total for name, (share, _) in table.items()}

    def fits(names: Sequence[str]) -> bool:
        return sum(table[name][1] for name in names) <= limit

    shares = largest_fitting(prior, least, fits)
    if not shares:
        assert all(cost > limit for _, cost in table.values())
        return
    assert fits(list(shares))
    assert sum(shares.values()) == pytest.approx(1)
    kept = sum(prior[name] for name in shares)
    assert len(shares) == 1 or min(shares.values()) >= least - 1e-9
    for count in range(1, len(prior) + 1):
        for names in combinations(prior, count):
            mass = sum(prior[name] for name in names)
            ample = count == 1 or min(prior[name] for name in names) >= least * mass
            assert not (ample and fits(names)) or mass <= kept + 1e-12


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_limits_out_of_reach_are_named(
    costs: list[tuple[int, int]], macs: int, parameters: int
) -> None:
    footprints = [Footprint(macs=one, parameters=other) for one, other in costs]
    limits = {"macs": macs, "parameters": parameters}
    if any(each.fits(limits) for each in footprints):
        return
    error = too_small(footprints, limits)
    assert {each.reason for each in error.violations} == {"BUDGET_TOO_SMALL"}
    for violation in error.violations:
        name = violation.field.removeprefix("options.max_")
        least = int(violation.message.rpartition(" ")[2])
        assert any(each.fits({**limits, name: least}) for each in footprints) or not any(
            each.fits({other: limit for other, limit in limits.items() if other != name})
            for each in footprints
        )


@pytest.fixture(scope="module")
def space(folder: Path) -> UniversalSpace:
    chosen = balanced(folder, **SHARES)
    return replace(chosen, universal=replace(chosen.universal, milliseconds=MILLISECONDS))


def report(space: UniversalSpace, **options: Option) -> Report:
    model = adapt(space, examples_of(photos(8)), options=options)
    assert model.report.onnx_bytes == len(model.onnx)
    return model.report


def test_a_budget_that_does_not_bind_changes_nothing(space: UniversalSpace) -> None:
    without = report(space)
    limits = {OPTIONS[name]: getattr(without, name) for name in COSTS[:2]}
    limits["max_bytes"] = 2 * without.onnx_bytes
    limited = report(space, max_milliseconds=100.0, **limits)
    assert limited.architecture == without.architecture
    assert limited.over_budget == without.over_budget == 0


@pytest.mark.parametrize("cost", COSTS)
def test_models_keep_to_each_limit(space: UniversalSpace, cost: str) -> None:
    """Each limit is just below the model before; the last is out of reach and named."""
    found, refusal = [report(space)], None
    while refusal is None:
        limit = getattr(found[-1], cost) - 1
        try:
            found.append(report(space, **{OPTIONS[cost]: limit}))
            assert getattr(found[-1], cost) <= limit
        except InvalidInput as error:
            refusal = error.violations
    (violation,) = refusal
    assert (violation.field, violation.reason) == (f"options.{OPTIONS[cost]}", "BUDGET_TOO_SMALL")
    assert len(found) > 2
    lost = [each.over_budget for each in found]
    assert lost == sorted(lost)
    if cost != "onnx_bytes":  # which is estimated
        least = int(violation.message.rpartition(" ")[2])
        assert least == getattr(found[-1], cost)
        assert report(space, **{OPTIONS[cost]: least}).architecture == found[-1].architecture


def test_files_are_little_below_their_estimate(space: UniversalSpace) -> None:
    for shares in ({"large": 1.0}, {"grey": 1.0}, {"small": 0.5, "grey": 0.5}):
        bias = tuple(log(max(shares.get(name, 0.0), 1e-9)) for name in BRANCHES)
        one = replace(space, universal=replace(space.universal, bias=bias))
        free = report(one)
        limited = report(one, max_bytes=free.onnx_bytes + 15_000)
        assert limited.architecture == free.architecture
        assert limited.over_budget == 0


def test_milliseconds_come_from_the_table(space: UniversalSpace) -> None:
    universal = space.universal
    for name, value in MILLISECONDS.items():
        assert milliseconds_of_branches(universal, [name]) == pytest.approx(value)
    shared = milliseconds_of_branches(universal, ["large", "frozen"])  # one trunk, one size
    assert 4 <= shared < 7
    assert milliseconds_of_branches(universal, ["large", "small"]) == pytest.approx(6)
    assert set(report(space, max_milliseconds=3.5).architecture) == {"frozen"}
    with pytest.raises(InvalidInput, match=r"the smallest has 1\.0") as caught:
        report(space, max_milliseconds=0.5)
    assert caught.value.reason == "BUDGET_TOO_SMALL"


def test_milliseconds_need_a_table(space: UniversalSpace) -> None:
    bare = replace(space, universal=replace(space.universal, milliseconds={}))
    for source in (bare, space.checkpoints["grey"]):
        with pytest.raises(InvalidInput) as caught:
            adapt(source, examples_of(photos()), options={"max_milliseconds": 5.0})
        assert findings(caught) == {("options.max_milliseconds", "PROFILE_MISSING")}
    assert "metanas profile" in str(caught.value) or "no checkpoint" in str(caught.value)


def test_a_budget_out_of_reach_is_refused_before_images_are_decoded(folder: Path) -> None:
    examples = examples_of(photos()) + examples_of([b"rubbish"])  # type: ignore[list-item]
    for source in (load_universal(folder), load_checkpoint(folder / "grey")):
        with pytest.raises(InvalidInput) as caught:
            adapt(source, examples, options={"max_macs": 10, "max_parameters": 5})
        assert {place for place, _ in findings(caught)} == {
            "options.max_macs",
            "options.max_parameters",
        }


@pytest.mark.parametrize("name", ["colour", "grey"])
@pytest.mark.parametrize("cost", COSTS)
def test_budgets_of_one_checkpoint(folder: Path, name: str, cost: str) -> None:
    checkpoint, examples = load_checkpoint(folder / name), examples_of(photos())
    free = adapt(checkpoint, examples)
    option, figure = OPTIONS[cost], getattr(free.report, cost)
    within = adapt(checkpoint, examples, options={option: figure + 100})
    assert within.genotype == free.genotype
    assert within.report.over_budget == 0
    with pytest.raises(InvalidInput, match="the smallest has") as caught:
        adapt(checkpoint, examples, options={option: figure - 1})
    assert findings(caught) == {(f"options.{option}", "BUDGET_TOO_SMALL")}


def test_tables_name_all_branches(folder: Path) -> None:
    universal = load_universal(folder).universal
    for bad in ({"grey": 1.0}, {**MILLISECONDS, "grey": 0.0}, {**MILLISECONDS, "x": 1.0}):
        with pytest.raises(InvalidInput, match="milliseconds"):
            replace(universal, milliseconds=bad)
    assert json.loads(universal_json(universal))["milliseconds"] == {}


def test_profile_measures_each_branch(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / UNIVERSAL_FILE
    before = (folder / UNIVERSAL_FILE).read_bytes()
    assert main(["profile", str(folder), "--out", str(out), "--runs", "2"]) == 0
    assert (folder / UNIVERSAL_FILE).read_bytes() == before
    measured = read_universal(out)
    assert set(measured.milliseconds) == set(BRANCHES)
    printed = capsys.readouterr().out
    for name, value in measured.milliseconds.items():
        assert f"| {name} | {value:g} |" in printed


def drawing(generator: np.random.Generator, kind: str) -> Image:
    """A synthetic image: strokes on paper, a coloured sign, or coloured noise."""
    if kind == "noise":
        patches = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return patches.repeat(12, axis=0).repeat(12, axis=1)
    picture = Picture.new("RGB", (105, 105), "white")
    points = [tuple(point) for point in generator.integers(5, 100, (4, 2)).tolist()]
    colour = "black" if kind == "strokes" else tuple(generator.integers(0, 200, 3).tolist())
    pen = ImageDraw.Draw(picture)
    (pen.line if kind == "strokes" else pen.polygon)(points, fill=colour)
    return np.asarray(picture)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strokes", "sign", "noise"])
def test_the_shipped_checkpoints_keep_to_each_budget(kind: str) -> None:
    shipped = load_universal(Path(__file__).resolve().parents[2] / "meta_checkpoints")
    generator = np.random.default_rng(0)
    support = [Example("abc"[index % 3], drawing(generator, kind)) for index in range(6)]
    for limit in (1_000_000, 4_000_000, 12_000_000):
        assert adapt(shipped, support, options={"max_bytes": limit}).report.onnx_bytes <= limit
    for limit in (10_000_000, 50_000_000, 150_000_000, 400_000_000):
        assert adapt(shipped, support, options={"max_macs": limit}).report.macs <= limit
