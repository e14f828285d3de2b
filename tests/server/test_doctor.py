"""The doctor: a line for each finding, with what to do, and an exit code."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from metanas_server.config import parse
from metanas_server.doctor.findings import FAILURE, OK, WARNING
from metanas_server.doctor.installation import EXTRAS, extras
from metanas_server.doctor.report import CHECKS, examine
from metanas_server.doctor.storage import check_files
from metanas_server.storage.folder_store import FolderStore
from tests.server.calls import images, spec
from tests.server.processes import ENVIRONMENT, serving
from tests.server.s3 import Bucket

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def used(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a server that has made a model and ended."""
    data = tmp_path_factory.mktemp("used") / "data"
    with serving(checkpoints, data) as server:
        server.api.serves()
        assert server.stop() == 0
    return data


@pytest.fixture
def copy(used: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "data"))


def findings(checkpoints: Path, data: Path, *flags: str) -> dict[str, list[tuple[str, str]]]:
    """Level and text of the findings by subject; a free port, a worker."""
    arguments = ["--checkpoints", str(checkpoints), "--data", str(data), "--devices=cpu"]
    found: dict[str, list[tuple[str, str]]] = {}
    for each in examine([*arguments, "--listen=127.0.0.1:0", "--max-stack-bytes=1", *flags], {}):
        found.setdefault(each.subject, []).append((each.level, each.text))
    return found


def doctor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "metanas_server", "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=120,
    )


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.name, path.read_bytes()


def test_all_is_well(checkpoints: Path, used: Path) -> None:
    before = list(files(used))
    found = findings(checkpoints, used)
    assert set(found) == {"configuration", *CHECKS}
    failures = {subject: each for subject, each in found.items() if each[0][0] == FAILURE}
    assert failures == {}
    assert [text.split(":")[0] for _, text in found["checkpoints"]] == ["colour", "grey"]
    assert (OK, "1 of 1 files are whole") in found["store"]
    assert list(files(used)) == before


def test_the_command(checkpoints: Path, tmp_path: Path) -> None:
    flags = ["--devices=cpu", "--listen=127.0.0.1:0", "--max-stack-bytes=1"]
    well = doctor("--checkpoints", str(checkpoints), "--data", str(tmp_path / "new"), *flags)
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout.startswith("ok       configuration: listen on 127.0.0.1:0, data in ")
    assert not (tmp_path / "new").exists()
    ill = doctor("--checkpoints", str(tmp_path), "--data", str(tmp_path), *flags)
    assert ill.returncode == 1
    lines = [line for line in ill.stdout.splitlines() if line.startswith(FAILURE)]
    assert len(lines) == 1
    assert "contains none that can be used; give another folder" in lines[0]


def test_an_invalid_configuration() -> None:
    ended = doctor("--max-stak", "1")
    assert ended.returncode == 1
    assert ended.stdout.startswith("failure  configuration: ")
    assert "Did you mean --max-stack?" in ended.stdout


def test_a_running_server(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        server.api.create(spec(), images())
        found = findings(checkpoints, tmp_path / "data", f"--listen={server.address}")
        assert found["address"][0][0] == OK
        assert "is in use by a server" in found["store"][0][1]
        assert {level for level, _ in found["store"]} == {OK}
        server.api.serves()


def test_a_port_in_use(checkpoints: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--listen", "--metrics"):
            [(level, text)] = findings(checkpoints, tmp_path, f"{option}={address}")["address"]
            assert level == FAILURE
            assert f"choose another {option}" in text


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_a_lost_and_a_damaged_file(checkpoints: Path, copy: Path, damage: str) -> None:
    [model] = (path for path in (copy / "artefacts").iterdir() if path.is_file())
    if damage == "lost":
        model.unlink()
    else:
        model.write_bytes(model.read_bytes()[:-1] + b"!")
    found = findings(checkpoints, copy)["store"]
    assert (
        FAILURE,
        f"1 of 1 files are {damage}; restore a backup (metanas-server restore)",
    ) in found


def test_a_file_that_a_running_server_deletes_meanwhile(copy: Path) -> None:
    """A support set is deleted after the end of its adaptation, and is not lost."""
    store, database = FolderStore(copy / "artefacts"), copy / "records.sqlite3"
    digests = [*store.digests(), "0" * 64]
    assert list(check_files(database, digests, store, "")) == [(OK, "1 of 1 files are whole")]


def test_a_damaged_and_a_lost_database(checkpoints: Path, copy: Path) -> None:
    database = copy / "records.sqlite3"
    database.write_bytes(b"rubbish" * 1000)
    assert findings(checkpoints, copy)["store"][-1][0] == FAILURE
    database.unlink()
    level, text = findings(checkpoints, copy)["store"][-1]
    assert level == FAILURE
    assert "is gone, but not its files" in text


def test_quarantined_files(checkpoints: Path, copy: Path) -> None:
    quarantine = copy / "artefacts" / "quarantine"
    quarantine.mkdir()
    (quarantine / ("0" * 64)).touch()
    assert findings(checkpoints, copy)["store"][-1][0] == WARNING


def test_a_damaged_checkpoint(checkpoints: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(checkpoints, tmp_path / "checkpoints"))
    [weights] = (root / "grey").glob("*.safetensors")
    weights.write_bytes(b"rubbish")
    (colour, grey) = findings(root, tmp_path / "data")["checkpoints"]
    assert colour[0] == OK
    assert grey[0] == FAILURE
    assert "CHECKPOINT_DAMAGED" in grey[1]


def test_a_missing_device(checkpoints: Path, tmp_path: Path) -> None:
    [(level, text)] = findings(checkpoints, tmp_path, "--devices=cuda:99")["devices"]
    assert level == FAILURE
    assert "DEVICE_MISSING" in text


def test_workers_on_ray(checkpoints: Path, tmp_path: Path) -> None:
    flags = ("--devices=cpu,cuda", "--workers=ray://nowhere:10001")
    found = findings(checkpoints, tmp_path, *flags)
    [(level, text)] = found["devices"]
    assert level == OK, "the devices of this host do not matter"
    assert text.startswith("2 workers on Ray ")
    assert "memory" not in found


def test_extras_that_options_need(tmp_path: Path) -> None:
    needs = {
        "otel": "--traces=http://127.0.0.1:1",
        "postgres": "--records=postgresql://user@127.0.0.1/name",
        "ray": "--workers=ray",
        "s3": "--artefacts=s3://bucket/folder",
        "studio": "--studio=127.0.0.1:0",
    }
    arguments = ["--data", str(tmp_path), "--devices=cpu"]
    assert list(extras(parse(arguments, {}))) == [(OK, "the options need none")]
    every = parse([*arguments, *needs.values()], {})
    assert list(extras(every)) == [(OK, "otel, postgres, ray, s3, studio")]
    lines = list(extras(every, lambda _: ""))[:-1]
    for (extra, flag), (level, line) in zip(needs.items(), lines, strict=True):
        assert level == FAILURE
        assert line.startswith(f"{flag.partition('=')[0]} ")
        assert line.endswith(f'; run: pip install "metanas-server[{extra}]"')
        assert all(name in line for name in EXTRAS[extra])


def test_the_distributions_of_extras() -> None:
    """They are those that the package declares."""
    project = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {
        extra: tuple(re.split(r"[\[>]", text)[0] for text in texts)
        for extra, texts in project["project"]["optional-dependencies"].items()
        if extra != "gpu"
    }
    assert declared | {"ray": ("ray",)} == EXTRAS  # that of metanas


def test_too_many_workers(checkpoints: Path, tmp_path: Path) -> None:
    many = f"--devices={','.join(['cpu'] * 2000)}"
    found = findings(checkpoints, tmp_path, many, "--max-stack-bytes=9000000000")
    assert found["devices"][-1][0] == WARNING
    assert found["memory"][-1][0] == WARNING
    images = findings(checkpoints, tmp_path, f"--max-image-memory={2**60}")
    assert images["memory"][-1][0] == WARNING


def test_security(checkpoints: Path, tmp_path: Path) -> None:
    def security(*flags: str) -> str:
        return findings(checkpoints, tmp_path, *flags)["security"][0][0]

    assert security() == OK
    assert security("--insecure-listen") == WARNING
    tokens = tmp_path / "tokens"
    assert security("--token-file", str(tokens)) == FAILURE
    tokens.touch(mode=0o600)
    assert security("--token-file", str(tokens)) == FAILURE
    assert security(f"--tls-cert={tokens}", f"--tls-key={tokens}") == FAILURE


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    tmp_path.chmod(0o500)
    (tmp_path / "data").chmod(0o500)
    [(level, text)] = findings(checkpoints, tmp_path / "new")["store"]
    assert (level, "or choose another --data" in text) == (FAILURE, True)
    [(level, text)] = findings(checkpoints, tmp_path / "data")["store"]
    assert (level, "run the server as its owner" in text) == (FAILURE, True)
    assert "choose another" not in text, "its models would be left behind"


def test_the_option_that_names_a_folder(checkpoints: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.touch()
    places = {"records": f"sqlite:///{junk}/records.sqlite3", "artefacts": f"{junk}/artefacts"}
    for option, place in places.items():
        found = findings(checkpoints, tmp_path / "data", f"--{option}={place}")["store"]
        assert found[-1] == (FAILURE, f"{junk} is no folder; choose another --{option}")
    assert not (tmp_path / "data").exists()


def test_artefacts_that_are_elsewhere(checkpoints: Path, copy: Path, tmp_path: Path) -> None:
    found = findings(checkpoints, copy, f"--artefacts={tmp_path}/none")["store"]
    assert found[-1][0] == FAILURE
    assert "the records need 1 files in it; check --artefacts, or restore" in found[-1][1]
    assert not (tmp_path / "none").exists()


def test_a_bucket_is_checked_before_the_first_start(
    checkpoints: Path, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    data, place = tmp_path / "data", "--artefacts=s3://bucket/doctor"
    with bucket.failing("507 Insufficient Storage"):
        level, text = findings(checkpoints, data, place)["store"][-1]
    assert (level, "check the bucket and AWS_*" in text) == (FAILURE, True)
    assert {level for level, _ in findings(checkpoints, data, place)["store"]} == {OK}
    assert not data.exists()


def test_a_full_disk(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    [(level, text)] = findings(checkpoints, tmp_path)["disk"]
    assert level == FAILURE
    assert text.endswith("; delete models (metanas models delete) or enlarge the disk")
    [(_, text)] = findings(checkpoints, tmp_path, "--artefacts=s3://bucket/doctor")["disk"]
    assert text.endswith(f"in {tmp_path}; enlarge the disk"), "models are in the bucket"
