"""Requests that name no checkpoint, on a server with the universal search space."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from metanas.spec.card import read_card
from metanas.spec.options import AdaptConfig
from metanas.spec.universal import (
    DESCRIPTION,
    UNIVERSAL_FILE,
    Branch,
    Costs,
    Universal,
    UniversalConfig,
    read_universal,
    universal_json,
)
from metanas.testing import make_checkpoint
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.checkpoint_service_pb2 import GetCheckpointRequest, ListCheckpointsRequest
from tests.server.calls import FAILED, LONG, Answer, images, refused, spec
from tests.server.processes import ENVIRONMENT, ServerProcess, command, serving
from tests.server.test_reload import replace_workers

OPTIONS = AdaptConfig(steps=2, tuning_steps=1, patience=0)


def write_universal(root: Path, bias: tuple[float, float] = (-9.0, 9.0)) -> None:
    """Write a space whose prior always prefers one checkpoint."""
    names = ("colour", "grey")
    universal = Universal(
        config=UniversalConfig(
            branches={name: Branch(checkpoint=name) for name in names},
            defaults=AdaptConfig(steps=2, tuning_steps=1, patience=0),
        ),
        checkpoints={name: read_card(root / name).digest for name in names},
        costs={name: Costs(macs=1, parameters=1) for name in names},
        weights=((0.0,) * DESCRIPTION,) * 2,
        bias=bias,
        scale=8.0,
    )
    (root / UNIVERSAL_FILE).write_text(universal_json(universal), encoding="utf-8")


def networks(answer: Answer) -> set[str]:
    """Return the branches of a model."""
    return {each.branch for each in answer.model.report.architecture}


@pytest.fixture
def root(checkpoints: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoints"
    shutil.copytree(checkpoints, copy)
    write_universal(copy)
    return copy


@pytest.fixture
def chooser(root: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(root, tmp_path / "data") as server:
        yield server


def test_requests_without_a_checkpoint_get_the_universal_space(
    chooser: ServerProcess, root: Path, tmp_path: Path
) -> None:
    api = chooser.api
    chosen = api.adapt(spec(checkpoint="", request_id="x"), images())
    named = api.adapt(spec(checkpoint="universal"), images())
    assert chosen.onnx == named.onnx
    assert chosen.adaptation.checkpoint == chosen.model.checkpoint == "checkpoints/universal"
    report = chosen.model.report
    assert [(each.branch, each.share) for each in report.architecture] == [("grey", 1.0)]
    assert report.prior["grey"] > 0.99
    progress = [each.progress for each in chosen.events if each.HasField("progress")]
    assert [dict(each.architecture) for each in progress if each.architecture] == [{"grey": 1.0}]
    assert {each.branch for each in progress} == {"", "grey"}
    assert [each.genotype_json for each in progress if each.genotype_json] == [
        chosen.model.genotype_json
    ]
    again = api.create(spec(checkpoint="", request_id="x"), images())
    assert again.name == chosen.adaptation.name
    running = api.create(spec(checkpoint="", options=LONG), images())
    api.until_running(running.name)
    chooser.kill()
    with serving(root, tmp_path / "data") as server:  # the same choice again
        assert server.api.get(chosen.adaptation.name).checkpoint == "checkpoints/universal"
        server.api.until_running(running.name)
        server.api.cancel(running.name)


def test_the_universal_space_is_listed_first(chooser: ServerProcess) -> None:
    stub = chooser.api.checkpoints
    listed = stub.ListCheckpoints(ListCheckpointsRequest()).checkpoints
    assert [each.name.rpartition("/")[2] for each in listed] == ["universal", "colour", "grey"]
    alone = stub.GetCheckpoint(GetCheckpointRequest(name="checkpoints/universal")).checkpoint
    assert alone == listed[0]
    assert alone.input.channels == 3
    assert alone.defaults.steps == 2
    assert alone.parameters == listed[1].parameters + listed[2].parameters
    assert "2 checkpoints: colour, grey, and universal)" in chooser.ready


def test_options_have_to_suit_all_candidates(chooser: ServerProcess) -> None:
    wrong = spec(checkpoint="", options=AdaptationOptions(steps=501))
    answer = refused(chooser.api.create, wrong, images())
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.violations == [("options.steps", "OPTION_OUT_OF_RANGE")]


@pytest.mark.parametrize(
    ("options", "violation"),
    [
        (AdaptationOptions(max_parameters=10), ("options.max_parameters", "BUDGET_TOO_SMALL")),
        (AdaptationOptions(max_milliseconds=9), ("options.max_milliseconds", "PROFILE_MISSING")),
    ],
)
def test_a_budget_out_of_reach_is_refused_at_once(
    chooser: ServerProcess, options: AdaptationOptions, violation: tuple[str, str]
) -> None:
    answer = refused(chooser.api.create, spec(checkpoint="", options=options), images())
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.violations == [violation]


def test_the_space_is_loaded_again_with_the_checkpoints(chooser: ServerProcess, root: Path) -> None:
    api, unnamed = chooser.api, spec(checkpoint="")
    write_universal(root, bias=(9.0, -9.0))
    assert networks(api.adapt(unnamed, images())) == {"grey"}
    replace_workers(chooser)
    assert api.failure(unnamed, images()).reason == "CHECKPOINT_CHANGED"
    assert api.adapt(spec(checkpoint="grey"), images()).onnx
    chooser.process.send_signal(signal.SIGHUP)
    while api.end_of(api.create(unnamed, images()).name).state == FAILED:
        pass
    assert networks(api.adapt(unnamed, images())) == {"colour"}


def test_a_space_of_other_checkpoints_is_not_taken_by_a_reload(
    chooser: ServerProcess, root: Path, tmp_path: Path
) -> None:
    make_checkpoint(root / "grey", channels=1, options=OPTIONS, seed=1)
    chooser.process.send_signal(signal.SIGHUP)
    log = tmp_path / "data.log"
    while "not loaded again" not in log.read_text(encoding="utf-8"):
        pass
    assert "'grey' has changed since universal.json was fitted" in log.read_text(encoding="utf-8")
    assert chooser.api.adapt(spec(checkpoint=""), images()).onnx
    replace_workers(chooser)  # they read the new files, and serve what has not changed
    assert chooser.api.failure(spec(checkpoint=""), images()).reason == "CHECKPOINT_CHANGED"
    assert chooser.api.adapt(spec(checkpoint="colour"), images()).onnx


def test_a_server_does_not_start_with_a_space_of_other_checkpoints(
    root: Path, tmp_path: Path
) -> None:
    universal = read_universal(root / UNIVERSAL_FILE)
    text = universal_json(replace(universal, checkpoints={"colour": "0" * 64, "grey": "0" * 64}))
    (root / UNIVERSAL_FILE).write_text(text, encoding="utf-8")
    done = subprocess.run(
        command(root, tmp_path / "data"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "fit universal.json again" in done.stderr
