"""`metanas adapt --detach` and `metanas adaptations`: leave an adaptation and come back to it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metanas.export import variants
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_client.__main__ import main
from metanas_client.onnx.model_file import ModelFile
from metanas_client.resources import LARGEST_INT8_OPSET
from tests.client.conftest import ENVIRONMENT, running_server
from tests.client.test_cli import metanas


def detached(server: str, folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["adapt", str(folder), "--detach", f"--server={server}", *flags]) == 0
    return capsys.readouterr().out.strip()


def test_a_detached_adaptation_is_listed_and_its_model_fetched_later(
    server: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, out = f"--server={server}", tmp_path / "m.onnx"
    name = detached(server, folder, capsys, "--seed=5", "--request-id=later")
    assert name.startswith("adaptations/")
    assert detached(server, folder, capsys, "--seed=5", "--request-id=later") == name
    assert main(["adaptations", "watch", name, here, f"--out={out}", "--json"]) == 0
    watched = json.loads(capsys.readouterr().out)
    assert (watched["file"], watched["size"]) == (str(out), out.stat().st_size)
    assert main(["adaptations", "list", here, "--json"]) == 0
    [listed] = [one for one in json.loads(capsys.readouterr().out) if one["name"] == name]
    assert (listed["state"], listed["model"], listed["seed"]) == ("succeeded", watched["model"], 5)
    assert main(["adaptations", "list", here, "--limit=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    again = ["adaptations", "watch", name.removeprefix("adaptations/"), here, f"--out={out}"]
    assert main(again) == 2
    assert "add --force" in capsys.readouterr().err
    assert main([*again, "--force"]) == 0


def test_a_detached_adaptation_is_cancelled(
    server: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, out = f"--server={server}", tmp_path / "m.onnx"
    name = detached(server, folder, capsys, "--steps=500")
    bare = name.removeprefix("adaptations/")
    assert main(["adaptations", "cancel", name, here]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{bare}\tcancelled"
    assert main(["adaptations", "watch", name, here, f"--out={out}"]) == 4
    assert "cancelled" in capsys.readouterr().err
    assert not out.exists()
    assert main(["adaptations", "list", here]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(bare)]
    assert row.split("\t")[1] == "cancelled"


@pytest.mark.parametrize(
    "flags",
    [
        ["--local", "--detach"],
        ["--local", "--reuse"],
        ["--pareto=2", "--detach"],
        ["--local", "--request-id=x"],
        ["--local", "--server=localhost:1"],
        ["--local", "--token=x"],
        ["--local", "--priority=9"],
        ["--local", "--tls"],
        ["--local", "--ca=x.pem"],
        ["--local", "--cert=x.pem"],
        ["--local", "--key=x.pem"],
        ["--opset=13", "--detach"],
    ],
)
def test_options_that_exclude_one_another_are_refused(
    folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert "leave one of them out" in error
    assert all(flag.partition("=")[0] in error for flag in flags)


def test_local_names_all_options_of_a_server(
    folder: Path, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(folder), "--local", "--priority=1", "--token=x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    local = ["adapt", folder, "--local", "--checkpoints", checkpoints, "--steps=0"]
    local += ["--tuning-steps=0", "--out", tmp_path / "m.onnx"]
    done = metanas(*local, METANAS_SERVER="localhost:1", METANAS_TOKEN="x")
    assert (done.returncode, done.stderr) == (0, "")  # the environment is for all commands


@pytest.mark.parametrize(
    ("command", "lister"),
    [
        (["adaptations", "cancel", "nobody"], "metanas adaptations list"),
        (["adaptations", "watch", "nobody"], "metanas adaptations list"),
        (["models", "get", "nobody"], "metanas models list"),
        (["models", "delete", "nobody"], "metanas models list"),
        (["adapt", "{folder}", "--checkpoint=nobody"], "metanas checkpoints"),
    ],
)
def test_an_unknown_name_is_answered_with_the_command_that_lists_the_names(
    server: str,
    folder: Path,
    command: list[str],
    lister: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [word.format(folder=folder) for word in command]
    if command[-1] != "delete" and command[:2] != ["adaptations", "cancel"]:
        given += [] if command[1] == "delete" else [f"--out={tmp_path / 'm.onnx'}"]
    assert main([*given, f"--server={server}"]) == 4
    assert f"`{lister}`" in capsys.readouterr().err


def test_an_unknown_checkpoint_has_one_exit_code(
    server: str,
    checkpoints: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["adapt", str(folder), "--checkpoint=tny", f"--out={tmp_path / 'm.onnx'}"]
    ways = [[f"--server={server}"], ["--local", f"--checkpoints={checkpoints}"]]
    codes = [main([*command, *way]) for way in ways]
    assert codes == [4, 4]
    assert capsys.readouterr().err.count("Did you mean tiny?") == 2


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A support set of two classes, dark and light, which files in 8 bits tell apart."""
    for label, level in (("dark", 20), ("light", 220)):
        folder = tmp_path / "plain" / label
        folder.mkdir(parents=True)
        for index in range(4):
            Image.fromarray(np.full((20, 20), level + index, np.uint8)).save(
                folder / f"{index}.png"
            )
    return tmp_path / "plain"


@pytest.mark.parametrize("flags", [["--server=127.0.0.1:1"], ["--local"]])
def test_a_form_that_no_model_can_have_is_refused_first(
    plain: Path, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Files in 8 bits end at opset 20; nothing is called and nothing is adapted."""
    assert LARGEST_INT8_OPSET == variants.LARGEST_INT8_OPSET
    out = f"--out={tmp_path / 'm.onnx'}"
    assert main(["adapt", str(plain), "--precision=int8", "--opset=21", out, *flags]) == 2
    assert "must be at most 20 with --precision int8; or choose fp16" in capsys.readouterr().err


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint that makes files in 8 bits by default."""
    folder = tmp_path_factory.mktemp("eight")
    make_checkpoint(folder / "tiny", options=AdaptConfig(steps=0, precision="int8"))
    return folder


def test_a_refused_form_leaves_a_model_that_is_named(
    eight_bits: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    with running_server(eight_bits, tmp_path / "data") as server:
        here = [f"--server={server}", f"--out={out}"]
        assert main(["adapt", str(plain), "--opset=21", *here]) == 2
        error = capsys.readouterr().err
        [fetch] = re.findall(r"`metanas (models get [0-9a-f]+)` fetches it as it is", error)
        assert not out.exists()
        assert main([*fetch.split(), *here]) == 0
    assert ModelFile.load(out).variant.precision == "int8"


def test_a_refused_form_of_a_local_model_is_told(
    eight_bits: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    command = ["adapt", str(plain), "--local", f"--checkpoints={eight_bits}", f"--out={out}"]
    assert main([*command, "--opset=21"]) == 2
    assert "no file was written" in capsys.readouterr().err
    assert not out.exists()


def test_the_list_of_adaptations_fits_a_terminal(server: str, folder: Path, tmp_path: Path) -> None:
    detach = metanas("adapt", folder, "--detach", "--seed=6", "--server", server)
    bare = detach.stdout.strip().removeprefix("adaptations/")
    metanas("adaptations", "watch", bare, "--server", server, f"--out={tmp_path / 'm.onnx'}")
    command = [sys.executable, "-m", "metanas_client", "adaptations", "list", "--limit=1"]
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", 0) as terminal:
        environment = {**ENVIRONMENT, "COLUMNS": "100", "TERM": "xterm"}
        subprocess.run([*command, f"--server={server}"], stdout=writer, env=environment, check=True)
        os.close(writer)
        shown = terminal.read(2**16).decode()
    [row] = [line for line in shown.splitlines() if bare in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert (cells[0], cells[1], cells[3:]) == (bare, "succeeded", ["tiny", "3", "6"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", cells[2])


def test_checkpoints_need_local(
    folder: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(folder), f"--checkpoints={checkpoints}"]) == 2
    assert "needs --local as well" in capsys.readouterr().err
