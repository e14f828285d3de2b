"""Budgets through a server: the same models as in process, and several models of falling cost."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from metanas import Example, UniversalSpace, adapt, load_universal
from metanas.adaptation.universal import network_of
from metanas.checkpoint import load_checkpoint
from metanas.evaluation.fit_universal import costs_of
from metanas.spec.options import AdaptConfig
from metanas.spec.universal import (
    DESCRIPTION,
    UNIVERSAL_FILE,
    Branch,
    Universal,
    UniversalConfig,
    universal_json,
)
from metanas.testing import make_checkpoint
from metanas_client import Client, InvalidInput
from metanas_client.__main__ import main
from tests.e2e.running import Running, running

OPTIONS = AdaptConfig(steps=0, tuning_steps=0, head="ridge")
BRANCHES = {
    "large": Branch(checkpoint="colour", size=64),
    "small": Branch(checkpoint="colour", size=32),
    "grey": Branch(checkpoint="grey"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and a prior that prefers the branch of the largest cost."""
    root = tmp_path_factory.mktemp("checkpoints")
    pools = ((1, 2), (3, 1))
    make_checkpoint(root / "colour", channels=3, size=64, trunk=True, pools=pools, options=OPTIONS)
    make_checkpoint(root / "grey", channels=1, options=OPTIONS)
    found = {name: load_checkpoint(root / name) for name in ("colour", "grey")}
    costs = {
        name: costs_of(network_of(found[branch.checkpoint], branch))
        for name, branch in BRANCHES.items()
    }
    universal = Universal(
        config=UniversalConfig(branches=BRANCHES, defaults=OPTIONS),
        checkpoints={name: each.card.digest for name, each in found.items()},
        costs=costs,
        weights=((0.0,) * DESCRIPTION,) * 3,
        bias=(4.0, 1.0, 0.0),
        scale=8.0,
    )
    (root / UNIVERSAL_FILE).write_text(universal_json(universal), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(root, tmp_path_factory.mktemp("served") / "data") as service:
        yield service


@pytest.fixture(scope="module")
def space(root: Path) -> UniversalSpace:
    return load_universal(root)


def pairs() -> list[tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    images = patches.repeat(8, axis=1).repeat(8, axis=2)
    return [("ab"[index % 2], image) for index, image in enumerate(images)]


def test_a_budget_is_the_same_in_process_and_through_the_server(
    server: Running, space: UniversalSpace
) -> None:
    examples = [Example(label, image) for label, image in pairs()]
    free = adapt(space, examples).report
    for options in ({"max_macs": free.macs - 1}, {"max_bytes": free.onnx_bytes // 2}):
        own = adapt(space, examples, options=options)
        with server.client() as client:
            served = client.adapt(pairs(), options=options).result(60)
        assert served.onnx == own.onnx
        assert served.report.over_budget == own.report.over_budget > 0


def test_a_budget_out_of_reach_has_one_error_everywhere(
    server: Running, space: UniversalSpace
) -> None:
    examples = [Example(label, image) for label, image in pairs()]
    for name in ("max_macs", "max_bytes"):
        with pytest.raises(Exception, match="the smallest has") as own:
            adapt(space, examples, options={name: 9})
        with (
            server.client() as client,
            pytest.raises(InvalidInput, match="the smallest has") as served,
        ):
            client.adapt(pairs(), options={name: 9}).result(60)
        (violation,) = served.value.violations
        assert (violation.field, violation.reason) == (f"options.{name}", "BUDGET_TOO_SMALL")
        assert violation.message in str(own.value)


def front(client: Client, count: int) -> list[int]:
    models = client.pareto(iter(pairs()), count)
    assert all(model.report.options for model in models)
    return [model.report.macs for model in models]


def test_several_models_of_falling_cost(server: Running) -> None:
    with server.client() as client:
        macs = front(client, 9)
        assert 2 <= len(macs) <= len(BRANCHES)
        assert all(2 * less <= more for more, less in pairwise(macs))
        assert front(client, 2) == macs[:2]
        with pytest.raises(InvalidInput, match="the smallest has"):
            client.pareto(pairs(), 3, options={"max_parameters": 5})


def test_the_command_writes_each_model(
    server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = Path(__file__).resolve().parents[2] / "examples/digits/support"
    command = ["adapt", str(digits), "--server", server.address, "--pareto", "4"]
    assert main([*command, "--out", str(tmp_path / "m.onnx")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("file\taccuracy on new images\tmultiply-adds")
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == [f"m-{number + 1}.onnx" for number in range(len(rows))]
    assert main(["verify", str(tmp_path / "m-1.onnx")]) == 0
    assert main([*command, "--out", str(tmp_path / "m.onnx")]) == 2
    assert "exists already" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "late.onnx")]
    assert main([*command, *out, "--deadline", "-1"]) == 2
    assert "deadline" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "n.onnx"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(rows)
