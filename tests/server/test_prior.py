"""Requests that name no checkpoint, on a server with a prior."""

import json
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
from metanas.spec.prior import DESCRIPTION, PRIOR_FILE, Prior, prior_json, read_prior
from metanas.testing import make_checkpoint
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from tests.server.calls import FAILED, LONG, images, refused, spec
from tests.server.processes import ENVIRONMENT, ServerProcess, command, serving
from tests.server.test_reload import replace_workers

OPTIONS = AdaptConfig(steps=2, tuning_steps=1, patience=0)


def write_prior(root: Path, bias: tuple[float, float] = (0.0, 1.0)) -> None:
    """Write a prior that always prefers one checkpoint."""
    digests = {name: read_card(root / name).digest for name in ("colour", "grey")}
    prior = Prior(checkpoints=digests, weights=((0.0,) * DESCRIPTION,) * 2, bias=bias)
    (root / PRIOR_FILE).write_text(prior_json(prior), encoding="utf-8")


@pytest.fixture
def root(checkpoints: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "checkpoints"
    shutil.copytree(checkpoints, copy)
    write_prior(copy)
    return copy


@pytest.fixture
def chooser(root: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with serving(root, tmp_path / "data") as server:
        yield server


def test_the_prior_chooses_where_no_checkpoint_is_named(
    chooser: ServerProcess, root: Path, tmp_path: Path
) -> None:
    api = chooser.api
    chosen = api.adapt(spec(checkpoint="", request_id="x"), images())
    named = api.adapt(spec(checkpoint="grey"), images())
    assert chosen.onnx == named.onnx
    assert chosen.adaptation.checkpoint == chosen.model.checkpoint == "checkpoints/grey"
    shares = json.loads(chosen.model.report_json)["prior"]
    assert shares == {
        "colour": pytest.approx(0.2689, abs=1e-3),
        "grey": pytest.approx(0.7311, abs=1e-3),
    }
    again = api.create(spec(checkpoint="", request_id="x"), images())
    assert again.name == chosen.adaptation.name
    running = api.create(spec(checkpoint="", options=LONG), images())
    assert running.checkpoint == ""
    api.until_running(running.name)
    chooser.kill()
    with serving(root, tmp_path / "data") as server:  # the prior chooses again
        assert server.api.get(chosen.adaptation.name).checkpoint == "checkpoints/grey"
        server.api.until_running(running.name)
        server.api.cancel(running.name)
        assert server.api.end_of(running.name).checkpoint == ""


def test_options_have_to_suit_all_candidates(chooser: ServerProcess) -> None:
    wrong = spec(checkpoint="", options=AdaptationOptions(steps=501))
    answer = refused(chooser.api.create, wrong, images())
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert answer.violations == [("options.steps", "OPTION_OUT_OF_RANGE")]


def test_a_prior_is_loaded_again_with_the_checkpoints(chooser: ServerProcess, root: Path) -> None:
    api, unnamed = chooser.api, spec(checkpoint="")
    write_prior(root, bias=(1.0, 0.0))
    assert api.adapt(unnamed, images()).model.checkpoint == "checkpoints/grey"
    replace_workers(chooser)
    assert api.failure(unnamed, images()).reason == "CHECKPOINT_CHANGED"
    assert api.adapt(spec(checkpoint="grey"), images()).onnx
    chooser.process.send_signal(signal.SIGHUP)
    while api.end_of(api.create(unnamed, images()).name).state == FAILED:
        pass
    assert api.adapt(unnamed, images()).model.checkpoint == "checkpoints/colour"


def test_a_prior_of_other_checkpoints_is_not_taken_by_a_reload(
    chooser: ServerProcess, root: Path, tmp_path: Path
) -> None:
    make_checkpoint(root / "grey", channels=1, options=OPTIONS, seed=1)
    chooser.process.send_signal(signal.SIGHUP)
    log = tmp_path / "data.log"
    while "not loaded again" not in log.read_text(encoding="utf-8"):
        pass
    assert "'grey' has changed since the prior was fitted" in log.read_text(encoding="utf-8")
    assert chooser.api.adapt(spec(checkpoint=""), images()).onnx
    replace_workers(chooser)  # they read the new files, and serve what has not changed
    assert chooser.api.failure(spec(checkpoint=""), images()).reason == "CHECKPOINT_CHANGED"
    assert chooser.api.adapt(spec(checkpoint="colour"), images()).onnx


def test_a_server_does_not_start_with_a_prior_of_other_checkpoints(
    root: Path, tmp_path: Path
) -> None:
    prior = read_prior(root / PRIOR_FILE)
    text = prior_json(replace(prior, checkpoints={"colour": "0" * 64, "grey": "0" * 64}))
    (root / PRIOR_FILE).write_text(text, encoding="utf-8")
    done = subprocess.run(
        command(root, tmp_path / "data"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "fit prior.json again" in done.stderr
