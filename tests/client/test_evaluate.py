"""`metanas evaluate` over a real server: figures, resuming, refusing."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metanas_client import Busy, Client
from tests.client.conftest import ENVIRONMENT, class_folders, running_server
from tests.client.test_cli import metanas

FIXED = ("--ways", 2, "--shots", 1, "--queries", 2, "--steps", 1, "--tuning-steps", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three kinds of stripes, which an untrained network tells apart better than nothing."""
    path = tmp_path_factory.mktemp("data") / "set.npz"
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (3, 6, 14, 14), dtype=np.uint8)
    images[0, :, ::2] += 180
    images[1, :, :, ::2] += 180
    np.savez(path, images=images, class_name=["a/rows", "b/columns", "c/noise"], split=["val"] * 3)
    return path


def run(server: str, data: Path, *more: object) -> dict[str, Any]:
    done = metanas("evaluate", "--data", data, *FIXED, "--server", server, "--json", *more)
    assert (done.returncode, done.stderr) == (0, "")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def accuracies(path: Path) -> list[float]:
    return [episode["accuracy"] for episode in json.loads(path.read_text())["episodes"]]


def test_figures_file_and_picture(server: str, data: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "r.json", tmp_path / "r.png"
    printed = run(server, data, "--episodes", 4, "--out", out, "--plot", plot)
    written = json.loads(out.read_text())
    assert printed["summary"] == written["summary"]
    summary = printed["summary"]
    assert summary["accuracy"] == pytest.approx(np.mean(accuracies(out)))
    assert summary["interval95"] >= 0
    assert summary["latency_seconds"]["p50"] <= summary["latency_seconds"]["p99"]
    assert summary["episodes_per_second"] > 0
    assert summary["bytes"] > 1000
    assert 0 <= summary["support"]["accuracy_soft"] <= 1
    assert printed["settings"]["options"]["steps"] == 1
    assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_nothing_is_left_on_the_server(server: str, data: Path) -> None:
    with Client(server) as client:
        before = [model.name for model in client.models()]
        run(server, data, "--episodes", 2)
        assert [model.name for model in client.models()] == before
        run(server, data, "--episodes", 1, "--keep")
        assert len(list(client.models())) == len(before) + 1


def test_concurrency_and_resuming_change_nothing(server: str, data: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    run(server, data, "--episodes", 5, "--out", one, "--concurrency", 1)
    run(server, data, "--episodes", 2, "--out", other, "--concurrency", 4)
    run(server, data, "--episodes", 5, "--out", other, "--concurrency", 4)
    # not the files' bytes: a model that was made in company differs from itself alone by roundings
    assert accuracies(one) == accuracies(other)


def test_what_is_done_is_not_done_again(server: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    first = run(server, data, "--episodes", 2, "--out", out)
    journal = tmp_path / "r.json.journal.jsonl"
    before = journal.read_bytes()
    assert run(server, data, "--episodes", 2, "--out", out) == first
    assert journal.read_bytes() == before


@pytest.mark.slow
def test_other_settings_do_not_mix(server: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    run(server, data, "--episodes", 1, "--out", out)
    arguments = ("evaluate", "--data", data, *FIXED, "--episodes", 1, "--out", out)
    done = metanas(*arguments, "--seed", 1, "--server", server)
    assert done.returncode == 2
    assert "seed: 0 there, 1 now" in done.stderr
    assert metanas(*arguments, "--seed", 1, "--server", server, "--restart").returncode == 0


@pytest.mark.slow
def test_an_evaluation_has_one_process_and_resumes(server: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = tmp_path / "r.json.journal.jsonl"
    command = [sys.executable, "-m", "metanas_client", "evaluate", "--data", data, *FIXED]
    command += ["--episodes", 500, "--server", server, "--out", out, "--concurrency", 2]
    with subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.05)
        for more in ((), ("--restart",)):
            second = metanas(*command[3:], *more)
            assert second.returncode == 2
            assert "wait for its end, or name another --out" in second.stderr
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, "interrupted" in errors) == (130, True)
    assert "Traceback" not in errors
    assert not out.exists()
    kept = sum(b'"episode"' in line for line in journal.read_bytes().splitlines())
    assert kept >= 2
    run(server, data, "--episodes", kept, "--out", out)
    assert len(accuracies(out)) == kept


@pytest.mark.slow
def test_class_folders_work_too(server: str, tmp_path: Path) -> None:
    found = run(server, class_folders(tmp_path / "set", 3, 4), "--episodes", 1)
    assert found["settings"]["split"] is None
    human = metanas(
        "evaluate", "--data", tmp_path / "set", *FIXED, "--episodes", 2, "--server", server
    )
    assert "95 % interval" in human.stdout


@pytest.mark.slow
def test_a_full_server_is_waited_for(checkpoints: Path, data: Path, tmp_path: Path) -> None:
    with (
        running_server(checkpoints, tmp_path / "data", "--max-jobs-per-caller", 1) as address,
        Client(address) as client,
    ):
        support = {"a": [np.zeros((9, 9), np.uint8)], "b": [np.full((9, 9), 255, np.uint8)]}
        long = client.adapt(support, options={"steps": 500})
        with pytest.raises(Busy) as caught:
            client.adapt(support)
        assert caught.value.retry_after is not None
        long.cancel()
        found = run(address, data, "--episodes", 4, "--concurrency", 3)
    assert found["summary"]["episodes"] == 4


def test_a_server_that_is_not_there(data: Path, tmp_path: Path) -> None:
    done = metanas(
        "evaluate", "--data", data, *FIXED, "--server", "127.0.0.1:1", "--out", tmp_path / "r"
    )
    assert done.returncode == 3
    assert list(tmp_path.iterdir()) == []
