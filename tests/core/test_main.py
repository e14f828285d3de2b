"""The command line of the core, in this process and in processes of its own."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import metanas
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
    """The printed error of arguments that cannot be used."""
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


LINES = re.findall(r"^metanas (train .*)$", GUIDE, re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in LINES if "--workers" not in line])
def test_the_commands_of_the_guide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """As far as the run that it goes on with, or the data: nobody has them where the guide says."""
    monkeypatch.chdir(SHIPPED.parents[1])
    changes = ["--set", "data.path='nowhere.npz'", "--set", "train.start=''"]
    missing = "CHECKPOINT" if "--resume" in line else "DATASET"
    assert f"[{missing}_MISSING]" in told(capsys, [*shlex.split(line), *changes])


@pytest.mark.parametrize("line", [line for line in LINES if "--workers" in line])
def test_the_commands_with_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """As far as the cluster."""
    monkeypatch.chdir(SHIPPED.parents[1])
    text = told(capsys, [*shlex.split(line), "--set", "train.tasks=1"])
    assert "raise train.tasks [OPTION_OUT_OF_RANGE]" in text


def test_data_that_lie_elsewhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As those of the configuration beside a shipped checkpoint do."""
    trained = SHIPPED.parents[1] / "meta_checkpoints" / "omniglot" / "training.json"
    text = told(capsys, ["train", str(trained), "--out", str(tmp_path / "run")])
    assert "--set \"data.path='...'\" [DATASET_MISSING]" in text


def test_options_of_workers_without_workers(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, ["train", str(SHIPPED), "--address", "127.0.0.1:6379"])
    assert "--workers N" in text
    assert "[OPTION_OUT_OF_RANGE]" in text


def test_workers_without_ray(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "metanas.training.ray_pool", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    text = told(capsys, ["train", str(SHIPPED), "--workers", "1"])
    assert 'pip install "metanas[ray]"' in text
    assert "[EXTRA_MISSING]" in text


def evaluation(checkpoint: Path, data: Path, out: Path, *more: str) -> list[str]:
    arguments = ["evaluate", str(checkpoint), "--data", str(data), "--ways", "3", "--queries", "2"]
    return [*arguments, "--set", "steps=1", "--out", str(out), *more]


def test_evaluations_are_printed_resumed_and_compared(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert main([*evaluation(checkpoint, data, one, "--episodes", "2"), "--transductive"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("data.npz, split val: 3-way 1-shot, 2 queries a class\naccuracy ")
    for title in ("exported", "pruned, not tuned", "soft supernet", "transductive"):
        assert re.search(rf"^{title} +\d+\.\d\d +± \d+\.\d\d +2$", text, re.MULTILINE)
    first = json.loads(one.read_text())["episodes"]
    assert [episode["steps"] for episode in first] == [1, 1]
    assert main([*evaluation(checkpoint, data, one, "--episodes", "3"), "--transductive"]) == 0
    assert json.loads(one.read_text())["episodes"][:2] == first  # not measured again
    assert main(evaluation(checkpoint, data, other, "--episodes", "3", "--set", "alpha_lr=0")) == 0
    capsys.readouterr()
    assert main(["compare", str(one), str(other)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["accuracy", "mean", "%", "interval", "episodes"]
    assert [row.split()[0] for row in rows] == [str(one), str(other), "difference"]
    assert [row.split()[-1] for row in rows] == ["3", "3", "3"]
    one_mean, other_mean, difference = (float(row.split()[1]) for row in rows)
    assert difference == pytest.approx(one_mean - other_mean, abs=0.011)
    assert main(evaluation(checkpoint, data, other, "--episodes", "4", "--set", "alpha_lr=0")) == 0
    capsys.readouterr()
    assert main(["compare", str(one), str(other)]) == 0
    assert [row.split()[-1] for row in capsys.readouterr().out.splitlines()[1:]] == ["3"] * 3


def test_turned_classes_are_classes_of_an_evaluation(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    for out, more in ((one, ()), (other, ("--rotations",))):
        assert main(evaluation(checkpoint, data, out, "--episodes", "2", *more)) == 0
    settings = [json.loads(out.read_text())["settings"] for out in (one, other)]
    assert settings[1]["classes"] == 4 * settings[0]["classes"]
    assert settings[1]["dataset"] == f"{settings[0]['dataset']} with rotations"
    assert "[EPISODES_DIFFER]" in told(capsys, ["compare", str(one), str(other)])


def test_folders_have_no_split_and_are_fitted(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(__file__).parents[2] / "examples" / "digits" / "query"
    out = tmp_path / "out.json"
    assert main(evaluation(checkpoint, folder, out, "--queries", "1", "--episodes", "1")) == 0
    assert json.loads(out.read_text())["settings"]["split"] is None
    text = capsys.readouterr().out
    assert "query, all classes: 3-way 1-shot, 1 query a class" in text
    assert "nan" not in text  # there is no interval of one episode


def test_an_evaluation_with_an_image_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "query"
    shutil.copytree(Path(__file__).parents[2] / "examples" / "digits" / "query", folder)
    (folder / "0" / "notes.txt").write_text("no image")
    small = evaluation(checkpoint, folder, tmp_path / "out.json", "--episodes", "1")
    assert "[DATASET_IMAGE]" in told(capsys, small)


def test_help_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "95 % interval" in " ".join(capsys.readouterr().out.split())


def test_an_evaluation_does_not_destroy_another(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "one.json"
    assert main(evaluation(checkpoint, data, out, "--episodes", "1")) == 0
    before = out.read_bytes()
    again = evaluation(checkpoint, data, out, "--episodes", "1", "--seed", "5")
    assert "[EVALUATION_SETTINGS]" in told(capsys, again)
    assert out.read_bytes() == before
    other = tmp_path / "notes.json"
    other.write_text("mine")
    assert "[EVALUATION_UNWRITABLE]" in told(capsys, evaluation(checkpoint, data, other))
    assert other.read_text() == "mine"


def test_documents_that_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text('{"settings": ')
    assert "[EVALUATION_FORMAT]" in told(capsys, ["compare", str(torn), str(torn)])
    assert "[EVALUATION_MISSING]" in told(capsys, ["compare", str(tmp_path), str(torn)])


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--set", "stepz=1"], "OPTION_UNKNOWN"),
        (["--set", "steps=501"], "OPTION_OUT_OF_RANGE"),
        (["--set", "steps"], "CONFIG_UNREADABLE"),
        (["--ways", "50"], "DATASET_TOO_FEW_CLASSES"),
        (["--out", "."], "EVALUATION_UNWRITABLE"),
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


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:1"])
def test_a_device_that_is_not_there(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path, device: str
) -> None:
    assert "[DEVICE_MISSING]" in told(
        capsys, evaluation(checkpoint, data, tmp_path / "one.json", "--device", device)
    )
    training = ["train", str(SHIPPED), "--out", str(tmp_path / "run"), "--device", device]
    assert "[DEVICE_MISSING]" in told(capsys, training)


def test_nobody_reads_what_is_printed(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Of a command whose output is small enough to be written at the end alone."""
    out = tmp_path / "one.json"
    command = [sys.executable, "-m", "metanas", *evaluation(checkpoint, data, out)]
    reads, writes = os.pipe()
    os.close(reads)
    for stderr in (subprocess.PIPE, writes):
        done = subprocess.run(
            [*command, "--episodes", "1"], stdout=writes, stderr=stderr, text=True, check=False
        )
        assert done.returncode == 128 + signal.SIGPIPE
        assert not done.stderr
    os.close(writes)
    assert len(json.loads(out.read_text())["episodes"]) == 1


def test_evaluation_of_no_checkpoint(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    text = told(capsys, ["evaluate", str(data.parent), "--data", str(data)])
    assert "choose one of the checkpoints in it: tiny [CHECKPOINT_MISSING]" in text
    (tmp_path / "empty").mkdir()
    text = told(capsys, ["evaluate", str(tmp_path / "empty"), "--data", str(data)])
    assert text.endswith("has no checkpoint.json [CHECKPOINT_MISSING]\n")


def run_in(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "metanas", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "command", "expected"),
    [
        ([], "", "the following arguments are required: COMMAND"),
        (["trian", "run.toml"], "", "Did you mean train?"),
        (["train", "rnu.toml"], " train", "there is no rnu.toml. Did you mean run.toml?"),
        (["train", "run.toml", "--uot=x"], " train", "Did you mean --out?"),
        (["evaluate", "tiny"], " evaluate", "the following arguments are required: --data"),
        (["evaluate", "tniy", "--data", "tiny"], " evaluate", "Did you mean tiny?"),
        (["evaluate", "tiny", "--data", "tinny"], " evaluate", "--data: there is no tinny."),
        (["evaluate", "tiny", "--data", "x" * 300], " evaluate", "--data: there is no xxx"),
        (
            ["evaluate", "tiny", "--episodes", "0"],
            " evaluate",
            "0 is not a whole number of at least 1",
        ),
        (["evaluate", "tiny", "--threads", "100000"], " evaluate", "not a whole number from 1 to"),
        (["evaluate", "tiny", "--together", "x"], " evaluate", "x is not a whole number"),
        (["compare", "a.jsn", "a.json"], " compare", "Did you mean a.json?"),
        (["scores", "tiny", "a.jsn"], " scores", "Did you mean a.json?"),
        (["tensorboard", "tinyy"], " tensorboard", "Did you mean tiny?"),
        (["evaluate", "a.json", "--data", "a.json"], " evaluate", "name its folder"),
        (["keys", "--all"], " keys", "unrecognized arguments: --all."),
    ],
)
def test_usage_errors_show_the_usage_of_the_command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    command: str,
    expected: str,
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "run.toml").touch()
    (tmp_path / "a.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: metanas{command} [-h]")
    assert expected in " ".join(error.split())


def test_a_process_ends_with_a_suggestion(tmp_path: Path) -> None:
    override = "train.iteratons=1"
    for option, expected in (
        ("--ste", "Did you mean --set?"),
        ("--set", "Did you mean iterations?"),
    ):
        done = run_in(tmp_path, "train", str(SHIPPED), "--out", "run", option, override)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_version(tmp_path: Path) -> None:
    done = run_in(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"metanas {metanas.__version__}\n")


def test_a_piped_evaluation_prints_results_alone(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    done = run_in(tmp_path, *evaluation(checkpoint, data, tmp_path / "one.json"), "--episodes=1")
    assert (done.returncode, done.stderr) == (0, "")
    first, _, *lines = done.stdout.splitlines()
    assert first == "data.npz, split val: 3-way 1-shot, 2 queries a class"
    assert [line.split("  ")[0] for line in lines] == [
        "exported",
        "pruned, not tuned",
        "soft supernet",
    ]
