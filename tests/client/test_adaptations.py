"""`metanas adapt --detach` and `metanas adaptations`: leave an adaptation and come back to it."""

import json
from pathlib import Path

import pytest

from metanas_client.__main__ import main


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
    assert main(["adaptations", "cancel", name, here]) == 0
    capsys.readouterr()
    assert main(["adaptations", "watch", name, here, f"--out={out}"]) == 4
    assert "cancelled" in capsys.readouterr().err
    assert not out.exists()
    assert main(["adaptations", "list", here]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(name)]
    assert row.split("\t")[1] == "cancelled"
    assert main(["adaptations", "cancel", "nobody", here]) == 4
    assert "no adaptation" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--local", "--detach"],
        ["--local", "--reuse"],
        ["--pareto=2", "--detach"],
        ["--local", "--request-id=x"],
        ["--opset=13", "--detach"],
    ],
)
def test_options_that_exclude_one_another_are_refused(
    folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(folder), *flags]) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_checkpoints_need_local(
    folder: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(folder), f"--checkpoints={checkpoints}"]) == 2
    assert "needs --local as well" in capsys.readouterr().err
