"""The command line as a process: what scripts get for good and for bad input."""

import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from metanas_client import Client, State
from tests.client.conftest import ENVIRONMENT, class_folders, draw

NOBODY = "127.0.0.1:1"  # a reserved port: nothing listens there


def metanas(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return metanas_in(None, *arguments, **environment)


def metanas_in(
    folder: Path | None, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metanas_client", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
    )


def test_help_and_version() -> None:
    done = metanas("--help")
    assert done.returncode == 0
    for command in (
        "adapt",
        "predict",
        "test",
        "show",
        "verify",
        "checkpoints",
        "models",
        "evaluate",
    ):
        assert command in done.stdout
        assert metanas(command, "--help").returncode == 0
    assert "130  interrupted" in done.stdout
    assert metanas("--version").stdout.startswith("metanas ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["models", "get", "x", "--input", "fixed:0x9"],
        ["models", "get", "x", "--input", "28"],
        ["adapt", "x", "--input", "fixed:2049x9"],
        ["models", "get", "x", "--opset", "12"],
        ["adapt"],
        ["adapt", "x", "--steps", "many"],
        ["models"],
        ["models", "rename"],
        ["predict", "m.onnx"],
        ["adapt", "x", "--pareto", "0"],
        ["models", "list", "--limit", "-1"],
        ["evaluate", "--data", "x", "--episodes", "0"],
    ],
)
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    done = metanas(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_no_server_is_code_3_and_says_where_it_was_looked_for(folder: Path, tmp_path: Path) -> None:
    for command in (["adapt", folder, "--out", tmp_path / "m.onnx"], ["checkpoints"]):
        done = metanas(*command, "--server", NOBODY)
        assert (done.returncode, done.stdout) == (3, "")
        assert NOBODY in done.stderr
        assert "metanas-server --listen" in done.stderr
        assert "Traceback" not in done.stderr
    assert metanas("models", "list", METANAS_SERVER=NOBODY).returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_when_json_is_asked_for(tmp_path: Path) -> None:
    draw(tmp_path / "loose.png", 0)
    done = metanas("adapt", tmp_path, "--json", "--server", NOBODY, "--out", tmp_path / "m.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "FOLDER_LAYOUT"
    assert error["violations"][0]["source"] == str(tmp_path / "loose.png")


@pytest.mark.slow
def test_bad_input_is_code_2(folder: Path, model_file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("no image")
    here = ("--server", NOBODY)
    cases: dict[str, list[object]] = {
        "does not exist": ["adapt", tmp_path / "none", *here],
        "no folder": ["adapt", folder, "--out", tmp_path / "none" / "m.onnx", *here],
        "it is a folder": ["adapt", folder, "--out", tmp_path, *here],
        "host:port": ["adapt", folder, "--server", "nowhere"],
        "certificate and private key": ["checkpoints", *here, "--cert", text],
        "No such file": ["checkpoints", *here, "--ca", tmp_path / "none.pem"],
        "not an image": ["predict", model_file, text],
        "is no ONNX file": ["verify", text],
        "cannot read": ["show", tmp_path / "none.onnx"],
        "ends in .svg": ["show", model_file, "--picture", tmp_path / "x.gif"],
        "3 classes, 3 of them": [
            "evaluate",
            "--data",
            folder,
            "--ways",
            "9",
            "--queries",
            1,
            *here,
        ],
        "no split": ["evaluate", "--data", folder, "--split", "val", *here],
        "2 ways": ["evaluate", "--data", folder, "--ways", "1", *here],
        "name an npz": ["evaluate", "--data", tmp_path / "none.npz", *here],
    }
    for expected, arguments in cases.items():
        done = metanas(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


def test_a_model_file_is_shown_verified_and_used_without_a_server(
    model_file: Path, tmp_path: Path
) -> None:
    image = draw(tmp_path / "[red]x.png", 5)
    assert "node 1" in metanas("show", model_file, "--picture", tmp_path / "c.svg").stdout
    assert (tmp_path / "c.svg").stat().st_size > 1000
    shown = json.loads(metanas("show", model_file, "--json").stdout)
    assert (shown["labels"], shown["provenance"]["checkpoint"]) == (["a", "b", "ü"], "tiny")
    verified = metanas("verify", model_file)
    assert (verified.returncode, "conformance" in verified.stdout) == (0, True)
    assert "[red]x.png" in metanas("predict", model_file, image).stdout
    other = draw(tmp_path / "y.png", 6)
    found = json.loads(metanas("predict", model_file, image, other, image, "--json").stdout)
    assert [set(entry) for entry in found] == [
        {"image", "label", "confidence", "known", "probabilities"},
        {"image", "label", "confidence", "known", "probabilities"},
    ]


def test_a_file_that_exists_is_replaced_on_demand_only(
    server: str, folder: Path, model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.onnx"
    out.write_text("mine")
    commands: list[list[object]] = [
        ["adapt", folder, "--out", out, "--server", NOBODY],
        ["models", "get", "x", "--out", out, "--server", NOBODY],
        ["evaluate", "--data", folder, "--out", out, "--server", NOBODY],
    ]
    for command in commands:
        done = metanas(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert "add --force" in done.stderr
    assert out.read_text() == "mine"
    assert metanas("adapt", folder, "--out", out, "--force", "--server", server).returncode == 0
    picture = tmp_path / "c.svg"
    assert metanas("show", model_file, "--picture", picture).returncode == 0
    assert "add --force" in metanas("show", model_file, "--picture", picture).stderr
    assert metanas("show", model_file, "--picture", picture, "--force").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["adapt", "x", "--sede", "1"], ["usage: metanas adapt", "Did you mean --seed?"]),
        (["models", "list", "--limt=3"], ["usage: metanas models list", "Did you mean --limit?"]),
        (["adpt", "x"], ["usage: metanas", "Did you mean adapt?"]),
        (["models", "lst"], ["usage: metanas models", "Did you mean list?"]),
        (["show", "modle.onnx"], ["Did you mean model.onnx?"]),
        (["adapt", "suport", "--out", "new.onnx"], ["Did you mean support?"]),
    ],
)
def test_a_slip_of_the_pen_is_answered_with_a_suggestion(
    arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "support").mkdir()
    done = metanas_in(tmp_path, *arguments)
    assert done.returncode == 2
    for text in expected:
        assert text in done.stderr


def test_piped_tables_are_a_line_a_row(server: str) -> None:
    done = metanas("checkpoints", "--server", server, COLUMNS="20")
    head, *rows = done.stdout.splitlines()
    assert head.split("\t") == ["name", "input", "cells", "parameters", "description"]
    assert [len(row.split("\t")) for row in rows] == [5]


def test_any_label_survives_any_console(server: str, tmp_path: Path) -> None:
    support = class_folders(tmp_path / "support", 2, 2)
    (support / "class0").rename(support / "кот😀")
    (support / "class1").rename(support / "b [red]")
    out = tmp_path / "m.onnx"
    for encoding in ("cp1252", "ascii", "utf-8"):
        console = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = metanas("adapt", support, "--out", out, "--force", "--server", server, **console)
        assert (done.returncode, done.stderr) == (0, "")
        shown = metanas("show", out, **console)
        assert shown.returncode == 0
        assert "b [red]" in shown.stdout
        as_json = metanas("show", out, "--json", **console)
        assert json.loads(as_json.stdout)["labels"] == ["b [red]", "кот😀"]
        assert as_json.stdout.isascii()


def test_the_first_accuracy_is_the_honest_one(server: str, folder: Path, tmp_path: Path) -> None:
    done = metanas("adapt", folder, "--out", tmp_path / "m.onnx", "--server", server)
    named = [line for line in done.stdout.splitlines() if "accuracy" in line.split("\t")[0]]
    assert named[0].startswith("accuracy on new images\t")
    assert named[1].startswith("accuracy on training views")


def test_a_reader_that_has_gone_is_no_error_with_a_traceback(model_file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "metanas_client", "show", str(model_file), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_failed_check_is_code_1(model_file: Path, tmp_path: Path) -> None:
    data = model_file.read_bytes()
    at = data.index(b'"logits": [') + len(b'"logits": [')
    digit = data.index(b".", at) + 1
    other = bytes([data[digit] ^ 1 if data[digit] not in b"89" else data[digit] ^ 4])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(data[:digit] + other + data[digit + 1 :])
    done = metanas("verify", broken, "--json")
    assert done.returncode == 1
    checks = {check["name"]: check["passed"] for check in json.loads(done.stdout)["checks"]}
    assert [name for name, passed in checks.items() if not passed] == ["conformance"]


def test_progress_bars_stay_off_a_pipe(server: str, folder: Path, tmp_path: Path) -> None:
    done = metanas("adapt", folder, "--out", tmp_path / "m.onnx", "--server", server)
    assert (done.returncode, done.stderr) == (0, "")
    assert "accuracy on new images" in done.stdout


def test_the_whole_way_over_a_server(server: str, folder: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "m.onnx", tmp_path / "again.onnx"
    here = ("--json", "--server", server)
    options = ("--steps", 1, "--shift-pixels", 2)
    done = metanas("adapt", folder, "--out", out, "--seed", 7, *options, *here)
    made = json.loads(done.stdout)
    assert made["labels"] == ["class0", "class1", "class2"]
    chosen = made["report"]["options"]
    assert (made["report"]["seed"], chosen["steps"], chosen["shift_pixels"]) == (7, 1, 2)
    assert metanas("verify", out).returncode == 0

    listed = json.loads(metanas("models", "list", *here).stdout)
    assert made["model"] in [model["name"] for model in listed]
    assert metanas("models", "get", made["model"], "--out", again, *here).returncode == 0
    assert again.read_bytes() == out.read_bytes()
    form = ("--input", "fixed:20x30", "--opset", 15)
    get = ("models", "get", made["model"], "--precision", "fp16", *form)
    assert metanas(*get, "--out", again, "--force", *here).returncode == 0
    variant = json.loads(
        json.loads(metanas("show", again, "--json").stdout)["provenance"]["variant"]
    )
    assert (variant["precision"], variant["input"], variant["opset"]) == ("fp16", "fixed:20x30", 15)
    assert metanas("verify", again).returncode == 0
    fixed = ("--out", again, "--force", "--steps", 0, *form)
    assert metanas("adapt", folder, *fixed, *here).returncode == 0
    assert "fixed:20x30" in metanas("verify", again).stdout
    assert metanas("predict", again, folder).returncode == 0
    assert metanas("models", "delete", made["model"], *here).returncode == 0
    gone = metanas("models", "get", made["model"], "--out", again, "--force", *here)
    assert (gone.returncode, json.loads(gone.stderr)["error"]["reason"]) == (4, "UNKNOWN_MODEL")

    known = json.loads(metanas("checkpoints", *here).stdout)
    assert [checkpoint["name"] for checkpoint in known] == ["checkpoints/tiny"]


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "flags"), [(770, []), (771, ["--pareto", "2"])])
def test_interrupting_stops_the_work_on_the_server(
    server: str, folder: Path, tmp_path: Path, seed: int, flags: list[str]
) -> None:
    command = [sys.executable, "-m", "metanas_client", "adapt", folder, "--server", server]
    command += ["--steps", 500, "--seed", seed, "--out", tmp_path / "m.onnx", *flags]
    with (
        Client(server) as client,
        subprocess.Popen(
            list(map(str, command)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        mine: list[str] = []
        while not mine:
            mine = [info.name for info in client.adaptations() if info.seed == seed]
            time.sleep(0.05)
        for _ in islice(client.adaptation(mine[0]).progress(), 15):
            pass  # by then the command has had its answer, too
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        list(client.adaptation(mine[0]).progress())
        assert client.adaptation(mine[0]).info().state is State.CANCELLED
    assert list(tmp_path.iterdir()) == []


def test_what_the_server_refuses_is_said_by_file(server: str, tmp_path: Path) -> None:
    support = class_folders(tmp_path / "support", 2, 2)
    (support / "class1" / "0.png").write_text("no image")
    done = metanas("adapt", support, "--out", tmp_path / "m.onnx", "--server", server)
    assert done.returncode == 2
    assert "class1/0.png" in done.stderr
    assert not (tmp_path / "m.onnx").exists()
