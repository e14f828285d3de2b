"""`python -m metanas`: what is said of inputs that cannot be used."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from metanas.__main__ import main
from metanas.testing import make_checkpoint
from tests.core.small import synthetic

SHIPPED = Path(__file__).parents[2] / "configs" / "omniglot.toml"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    classes = synthetic(6, 5, size=12)
    np.savez(
        tmp_path / "data.npz",
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        alphabet=np.array(["a"] * 6),
        split=np.array(["val"] * 6),
    )
    return tmp_path / "data.npz"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "tiny", size=12)
    return tmp_path / "tiny"


def told(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What is printed of an input that cannot be used."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.iteratons=1", "CONFIG_UNKNOWN_KEY"),
        ("train.iterations=0", "OPTION_OUT_OF_RANGE"),
        ("train.iterations", "CONFIG_UNREADABLE"),
        ("data.path='nowhere.npz'", "DATASET_MISSING"),
    ],
)
def test_training_with_wrong_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, override: str, reason: str
) -> None:
    out = tmp_path / "run"
    text = told(capsys, ["train", str(SHIPPED), "--out", str(out), "--set", override])
    assert f"[{reason}]" in text
    assert not out.exists()


GUIDE = (SHIPPED.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^python -m metanas (train .*)$", GUIDE, re.MULTILINE))
def test_the_commands_of_the_guide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """As far as the data, which nobody has where the guide says."""
    monkeypatch.chdir(SHIPPED.parents[1])
    arguments = [*shlex.split(line), "--set", "data.path='nowhere.npz'"]
    assert "[DATASET_MISSING]" in told(capsys, arguments)


def test_training_without_a_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "[CONFIG_UNREADABLE]" in told(capsys, ["train", str(tmp_path / "no.toml")])


def test_evaluation_prints_both_accuracies(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "episodes.json"
    arguments = ["evaluate", str(checkpoint), "--data", str(data), "--ways", "3"]
    arguments += ["--queries", "2", "--episodes", "2", "--set", "steps=1", "--out", str(out)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "exported" in text
    assert "soft" in text
    outcomes = json.loads(out.read_text())
    assert [outcome["report"]["options"]["steps"] for outcome in outcomes] == [1, 1]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--set", "stepz=1"], "OPTION_UNKNOWN"),
        (["--set", "steps=501"], "OPTION_OUT_OF_RANGE"),
        (["--set", "steps"], "CONFIG_UNREADABLE"),
        (["--ways", "50"], "DATASET_TOO_FEW_CLASSES"),
        (["--split", "nothing"], "DATASET_SPLIT"),
    ],
)
def test_evaluation_with_wrong_settings(
    capsys: pytest.CaptureFixture[str],
    checkpoint: Path,
    data: Path,
    option: list[str],
    reason: str,
) -> None:
    arguments = ["evaluate", str(checkpoint), "--data", str(data), "--queries", "2"]
    assert f"[{reason}]" in told(capsys, [*arguments, *option])


def test_evaluation_of_no_checkpoint(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    arguments = ["evaluate", str(tmp_path), "--data", str(data)]
    assert "[CHECKPOINT_MISSING]" in told(capsys, arguments)
