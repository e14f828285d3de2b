"""Starts that fail: one line that says what to do, and exit code 2. Each row is a real process."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.server.processes import attempt, run, serving

FOREIGN = "CREATE TABLE adaptations (number); CREATE TABLE models (number); PRAGMA user_version ="


def fails(checkpoints: Path, data: Path, *flags: str) -> str:
    """Run a server that cannot start; return the line that it prints."""
    done = run(checkpoints, data, *flags)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("metanas-server: ")
    return line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--frobnicate"], "unrecognized arguments: --frobnicate. See metanas-server --help."),
        (["--max-way=3"], "--max-way=3. Did you mean --max-ways? See metanas-server --help."),
        (["--max-ways=many"], "argument --max-ways: invalid int value"),
        (["--max-ways=1"], "--max-ways"),
        (["--max-queue=0"], "--max-queue must be an integer >= 1"),
        (["--max-image-bytes=3000000000"], "must be an integer from 1 to 1073741824"),
        (["--max-silence=inf"], "--max-silence must be a number > 0, <= 1000000"),
        (["--grace=nan"], "--grace must be a number from 0 to"),
        (["--threads=100000"], "--threads must be an integer from 0 to"),
        (["--devices=abacus"], "--devices must name"),
        (["--devices=cpu,cuda:99"], "--devices cuda:99: torch"),
        (["--artefacts=s3://a bucket/x"], "--artefacts must be a folder or s3://BUCKET/PREFIX"),
        (["--workers=4"], "--workers must be processes, ray, HOST:PORT or ray://HOST:PORT"),
        (["--workers=ray", "--devices=cuda:1"], "--devices must be cpu or cuda with --workers"),
        (["--listen=nowhere"], "is not HOST:PORT"),
        (["--listen=127.0.0.1:99999"], "is not HOST:PORT"),
        (["--listen=0.0.0.0:0"], "--insecure-listen"),
        (["--listen=[::]:0"], "--insecure-listen"),
        (["--listen=256.256.256.256:0", "--insecure-listen"], "choose another --listen"),
        (["--listen=a..b:0", "--insecure-listen"], "choose another --listen"),
        (["--tls-cert=cert.pem"], "--tls-key"),
        (["--tls-client-ca=ca.pem"], "--tls-client-ca needs --tls-cert"),
        (["--tls-cert=none.pem", "--tls-key=none.key"], "none.key cannot be read"),
        (["--tls-cert={junk}", "--tls-key={junk}"], "give PEM files (TLS_INVALID)"),
        (["--token-file=none"], "none cannot be read"),
        (["--token-file={junk}"], "line 1 of"),
        (["--token-file={open}"], "other users can read or change"),
        (["--audit-log=/proc/none/audit"], "give another file (AUDIT_NOT_WRITABLE)"),
        (["--checkpoints=none"], "none contains no checkpoint: no folder in it has a"),
        (["--checkpoints={junk}"], "give the folder above the checkpoints (CHECKPOINT_MISSING)"),
        (["--data={junk}/data"], "{junk}/data cannot be written: Not a directory"),
        (["--data={junk}"], "File exists; choose another folder (DATA_NOT_WRITABLE)"),
        (["--data=/proc/metanas"], "choose another folder (DATA_NOT_WRITABLE)"),
    ],
)
def test_options_that_cannot_be_used(
    checkpoints: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    junk, readable = tmp_path / "junk", tmp_path / "open"
    junk.write_text("-----BEGIN CERTIFICATE-----\nxxx\n-----END CERTIFICATE-----\n")
    junk.chmod(0o600)
    readable.touch(0o644)
    filled = [flag.format(junk=junk, open=readable) for flag in flags]
    assert words.format(junk=junk) in fails(checkpoints, tmp_path / "data", *filled)


def garbage(path: Path) -> None:
    path.write_text("no database, but long enough" * 100)


def folder(path: Path) -> None:
    path.mkdir()


def of_a_later_release(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(f"{FOREIGN} 99")


def of_another_program(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(f"{FOREIGN} 5")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (garbage, "DATABASE_DAMAGED"),
        (folder, "DATA_NOT_WRITABLE"),
        (of_a_later_release, "DATABASE_VERSION"),
        (of_another_program, "DATABASE_VERSION"),
    ],
)
def test_databases_that_cannot_be_read(
    checkpoints: Path, tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    write(tmp_path / "records.sqlite3")
    line = fails(checkpoints, tmp_path)
    assert f"the database {tmp_path / 'records.sqlite3'}" in line
    assert line.endswith(f"({reason})")


def test_a_database_with_a_damaged_page(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        assert server.stop() == 0
    path = tmp_path / "data" / "records.sqlite3"
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    assert "use metanas-server restore" in fails(checkpoints, tmp_path / "data")


def weights_of(folder: Path) -> Path:
    (found,) = folder.glob("weights-*.safetensors")
    return found


def flip_a_bit(folder: Path) -> None:
    content = bytearray(weights_of(folder).read_bytes())
    content[-1] ^= 1
    weights_of(folder).write_bytes(content)


def cut(folder: Path) -> None:
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:100])


def remove_weights(folder: Path) -> None:
    weights_of(folder).unlink()


def break_card(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{")


def raise_format(folder: Path) -> None:
    path = folder / "checkpoint.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**card, "format_version": 99}), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "word", "reason"),
    [
        (flip_a_bit, "SHA-256", "CHECKPOINT_DAMAGED"),
        (cut, "SHA-256", "CHECKPOINT_DAMAGED"),
        (remove_weights, "no readable weights-", "CHECKPOINT_MISSING"),
        (break_card, "checkpoint.json", "CHECKPOINT_DAMAGED"),
        (raise_format, "version", "CHECKPOINT_FORMAT"),
    ],
)
def test_damaged_checkpoints(
    checkpoints: Path, tmp_path: Path, damage: Callable[[Path], None], word: str, reason: str
) -> None:
    shutil.copytree(checkpoints, tmp_path / "checkpoints")
    damage(tmp_path / "checkpoints" / "grey")
    line = fails(tmp_path / "checkpoints", tmp_path / "data")
    assert str(tmp_path / "checkpoints" / "grey") in line
    assert word in line
    assert line.endswith(f"({reason})")


def test_two_servers_with_one_port_or_one_folder(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        line = fails(checkpoints, tmp_path / "other", "--listen", server.address)
        assert line == (
            f"metanas-server: cannot listen on {server.address}: Address already in use;"
            " choose another --listen (PORT_IN_USE)"
        )
        line = fails(checkpoints, tmp_path / "data")
        assert line == (
            f"metanas-server: the folder {tmp_path / 'data'} is in use by another server;"
            " stop it or choose another folder (DATA_IN_USE)"
        )
        server.api.serves()


def test_two_databases_with_one_folder_of_artefacts(checkpoints: Path, tmp_path: Path) -> None:
    """A server deletes files that its own database does not need; the other one may need them."""
    flag = f"--artefacts={tmp_path / 'common'}"
    with serving(checkpoints, tmp_path / "data", flag):
        line = fails(checkpoints, tmp_path / "other", flag)
        assert line.startswith(f"metanas-server: the folder {tmp_path / 'common'} is in use by")
        assert line.endswith("(DATA_IN_USE)")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["backup"], "the following arguments are required: BACKUP"),
        (["restore", "x", "--dat", "y"], "unrecognized arguments: --dat y."),
        (["repair", "--data", "missing"], "--data missing is no folder"),
        (["tokens", "create"], "the following arguments are required: NAME"),
    ],
)
def test_wrong_commands_are_refused_in_a_line(
    words: list[str],
    cause: str,
    tmp_path: Path,
) -> None:
    done = attempt(*words, folder=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"metanas-server: {cause}")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_a_file_system_are_ignored(checkpoints: Path, tmp_path: Path) -> None:
    """The root of a mounted volume has a folder `lost+found`."""
    shutil.copytree(checkpoints, tmp_path / "checkpoints")
    for place in ("checkpoints", "data", "data/artefacts"):
        (tmp_path / place / "lost+found").mkdir(parents=True)
    with serving(tmp_path / "checkpoints", tmp_path / "data") as server:
        assert "2 checkpoints: colour, grey" in server.ready
        server.api.serves()


def test_the_version(checkpoints: Path, tmp_path: Path) -> None:
    done = run(checkpoints, tmp_path / "data", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"metanas-server {version('metanas-server')}\n"
