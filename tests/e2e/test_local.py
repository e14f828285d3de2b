"""`metanas adapt --local`: the files and the errors of a server, without one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metanas_client.__main__ import main
from tests.e2e.running import DIGITS, ENVIRONMENT, Running, running

SUPPORT = str(DIGITS / "support")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums over several threads need not be added in the same order as the server's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(checkpoints, tmp_path_factory.mktemp("served") / "data") as service:
        yield service


def report_of(text: str) -> dict[str, object]:
    report: dict[str, object] = json.loads(text)["report"]
    report.pop("seconds")
    return report


def test_files_and_reports_are_those_of_a_server(
    checkpoints: Path, server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here.onnx", tmp_path / "there.onnx"
    for name, flags in (("grey", ["--seed=3"]), ("colour", ["--shift-pixels=1", "--no-bilevel"])):
        command = ["adapt", SUPPORT, f"--checkpoint={name}", "--json", "--force", *flags]
        local = ["--local", f"--checkpoints={checkpoints}", f"--out={here}"]
        assert main([*command, *local]) == 0
        made = capsys.readouterr().out
        assert main([*command, f"--server={server.address}", f"--out={there}"]) == 0
        assert here.read_bytes() == there.read_bytes()
        assert report_of(made) == report_of(capsys.readouterr().out)


def test_models_of_falling_cost_are_those_of_a_server(
    checkpoints: Path, server: Running, tmp_path: Path
) -> None:
    command = ["adapt", SUPPORT, "--checkpoint=grey", "--steps=1", "--pareto=3"]
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    local = ["--local", f"--checkpoints={checkpoints}", f"--out={tmp_path / 'here' / 'm.onnx'}"]
    assert main([*command, *local]) == 0
    out = f"--out={tmp_path / 'there' / 'm.onnx'}"
    assert main([*command, f"--server={server.address}", out]) == 0
    names = sorted(path.name for path in (tmp_path / "there").iterdir())
    assert names
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == names
    for name in names:
        same = (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
        assert same


def test_errors_are_those_of_a_server(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    for label in "ab":
        (bad / label).mkdir(parents=True)
        (bad / label / "1.png").write_text("no image")
    local = ["--local", f"--checkpoints={checkpoints}", f"--out={tmp_path / 'm.onnx'}"]
    cases: dict[str, tuple[int, list[str]]] = {
        str(bad / "b" / "1.png"): (2, [str(bad), "--checkpoint=grey"]),
        "name one of the checkpoints of": (2, [SUPPORT]),
        "Did you mean grey?": (4, [SUPPORT, "--checkpoint=gray"]),
        "whole number from 0": (2, [SUPPORT, "--checkpoint=grey", "--seed=-1"]),
        "options.steps": (2, [SUPPORT, "--checkpoint=grey", "--steps=1000"]),
        "allow more with --timeout": (4, [SUPPORT, "--checkpoint=grey", "--timeout=1e-9"]),
        "allow more with --deadline": (4, [SUPPORT, "--checkpoint=grey", "--deadline=1e-9"]),
        "cannot be used with --request-id": (2, [SUPPORT, "--request-id=x"]),
    }
    for expected, (code, arguments) in cases.items():
        assert main(["adapt", *arguments, *local]) == code
        assert expected in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_without_the_core_the_error_names_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['metanas'] = None; from metanas_client.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = ["adapt", SUPPORT, "--local", "--out", str(tmp_path / "m.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "metanas-client[local]"' in done.stderr
    assert "Traceback" not in done.stderr
