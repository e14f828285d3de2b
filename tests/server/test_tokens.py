"""Tokens: the command that changes their file, their roles, and changes while a server runs."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from metanas_protos.v1.adaptation_service_pb2 import DeleteAdaptationRequest
from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest, ListModelsRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from metanas_server.errors import StartError
from tests.server.calls import LONG, Api, images, refused, spec
from tests.server.processes import ENVIRONMENT, ServerProcess, serving


def command(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `metanas-server tokens`."""
    return subprocess.run(
        [sys.executable, "-m", "metanas_server", "tokens", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT | variables,
        timeout=60,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The token file; it does not exist yet."""
    return tmp_path / "tokens"


def test_the_command_creates_lists_and_revokes(path: Path) -> None:
    file = ("--token-file", path)
    made = command("create", "workshop", *file)
    assert (made.returncode, made.stderr.count("\n")) == (0, 1)
    second = command("create", "board", "--role", "read", METANAS_TOKEN_FILE=str(path))
    assert second.returncode == 0
    assert made.stdout.startswith("metanas_")
    assert made.stdout.strip() not in path.read_text()  # its digest only
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    head, *rows = command("list", *file).stdout.splitlines()
    assert head.split() == ["id", "role", "created", "name"]
    assert [row.split()[1::2] for row in rows] == [["use", "workshop"], ["read", "board"]]
    assert command("revoke", "workshop", *file).stdout == "revoked: 1\n"
    assert [token.name for token in tokens.read(path)] == ["board"]


def test_one_token_of_a_caller_is_revoked_by_its_id(path: Path) -> None:
    for name in ("one", "one", "two"):
        tokens.create(path, name, Role.USE)
    first, second, third = tokens.read(path)
    assert tokens.revoke(path, "one", first.id) == 1
    assert tokens.read(path) == (second, third)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("create", "a b"), "is no name"),
        (("create", ""), "is no name"),
        (("create", "x", "--role=root"), "Choose from read, use, admin"),
        (("revoke", "nobody"), "see: metanas-server tokens list"),
        (("list",), "tokens create NAME"),
        (("listt",), "Did you mean list?"),
        (("create", "x", "--token-file=/proc/none/tokens"), "give another --token-file"),
    ],
)
def test_commands_that_fail_say_what_to_do(
    path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = command(*arguments, METANAS_TOKEN_FILE=str(path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr


def test_the_file_has_to_be_named() -> None:
    assert "--token-file FILE" in command("list").stderr


def test_commands_at_the_same_time_lose_no_token(path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "metanas_server", "tokens", "create", f"n{number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT | {"METANAS_TOKEN_FILE": str(path)},
        )
        for number in range(4)
    ]
    assert [each.wait(60) for each in running] == [0] * 4
    assert {token.name for token in tokens.read(path)} == {"n0", "n1", "n2", "n3"}


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o644, 0o666])
def test_a_file_that_others_can_read_or_change_is_refused(path: Path, mode: int) -> None:
    tokens.create(path, "one", Role.USE)
    path.chmod(mode)
    with pytest.raises(StartError, match="chmod 600"):
        tokens.read(path)


def test_the_file_stays_behind_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)
    tokens.create(link, "one", Role.USE)
    assert link.is_symlink()
    assert len(tokens.read(path)) == 1


def lists(api: Api) -> None:
    api.models.ListModels(ListModelsRequest())


def test_changes_work_without_a_restart(checkpoints: Path, path: Path, tmp_path: Path) -> None:
    first = tokens.create(path, "first", Role.USE)
    with serving(checkpoints, tmp_path / "data", "--token-file", str(path)) as server:
        lists(server.api_of(first))
        second = tokens.create(path, "second", Role.USE)
        lists(server.api_of(second))
        watch = watching(server, second)
        tokens.revoke(path, "second", None)
        assert refused(lists, server.api_of(second)).reason == "UNAUTHENTICATED"
        assert refused(list, watch).reason == "UNAUTHENTICATED"  # a running call ends, too
        lists(server.api_of(first))
        for damage, repair in (
            (lambda: path.chmod(0o644), lambda: path.chmod(0o600)),
            (lambda: path.rename(tmp_path / "gone"), lambda: (tmp_path / "gone").rename(path)),
        ):
            damage()
            answer = refused(lists, server.api_of(first))
            assert (answer.code, answer.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "TOKENS_UNREADABLE",
            )
            repair()
            lists(server.api_of(first))
    log = (tmp_path / "data.log").read_text(encoding="utf-8")
    assert f"chmod 600 {path}" in log
    assert first not in log


def watching(server: ServerProcess, token: str) -> object:
    """Watch a long adaptation of its own; returns the call, which has begun."""
    api = server.api_of(token)
    watch = api.watch(api.create(spec(options=LONG), images()).name)
    next(watch)
    return watch


READS: tuple[Callable[[Api], object], ...] = (
    lists,
    lambda api: api.checkpoints.ListCheckpoints(ListCheckpointsRequest()),
)
WRITES: tuple[Callable[[Api], object], ...] = (
    lambda api: api.create(spec(), images()),
    lambda api: api.cancel("adaptations/x"),
    lambda api: api.adaptations.DeleteAdaptation(DeleteAdaptationRequest(name="adaptations/x")),
    lambda api: api.models.DeleteModel(DeleteModelRequest(name="models/x")),
)


def test_roles(checkpoints: Path, path: Path, tmp_path: Path) -> None:
    """A token of the role `read` sees what the caller made with another token."""
    use, read = (tokens.create(path, "one", role) for role in (Role.USE, Role.READ))
    with serving(checkpoints, tmp_path / "data", "--token-file", str(path)) as server:
        api = server.api_of(read)
        model = server.api_of(use).adapt(spec(), images()).model
        assert api.model(model.name) == model
        assert api.download(model.name)
        for do in READS:
            do(api)
        for do in WRITES:
            answer = refused(do, api)
            assert (answer.code, answer.reason) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "ROLE_INSUFFICIENT",
            )


def test_no_other_user_can_read_the_data(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        server.api.serves()
        for path in (tmp_path / "data", *(tmp_path / "data").rglob("*")):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
    log = tmp_path / "data.log"
    assert "other users" not in log.read_text(encoding="utf-8")
    (tmp_path / "data").chmod(0o755)
    with serving(checkpoints, tmp_path / "data"):
        assert f"chmod o= {tmp_path / 'data'}" in log.read_text(encoding="utf-8")
