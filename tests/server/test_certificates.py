"""Callers by their client certificate, and certificates that are replaced without a restart."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from metanas_server.errors import StartError
from tests.certificates import certificate
from tests.server.calls import SUCCEEDED, Api, images, refused, spec, with_token
from tests.server.processes import ENVIRONMENT, ServerProcess, serving

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl, which makes the certificates"
)
BOARD = "spiffe://factory/board"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and the certificates and the token file of a server."""
    folder = tmp_path_factory.mktemp("pki")
    authority = certificate(folder, "authority")
    for name in ("server", "workshop", "stranger"):
        certificate(folder, name, authority)
    certificate(folder, "board", authority, BOARD)
    return folder


@pytest.fixture(scope="module")
def path(pki: Path) -> Path:
    path = pki / "tokens"
    tokens.create_certificate(path, "workshop", Role.USE, "workshop")
    tokens.create_certificate(path, "display", Role.READ, BOARD)
    return path


@pytest.fixture(scope="module")
def server(checkpoints: Path, pki: Path, path: Path) -> Iterator[ServerProcess]:
    flags = ["--tls-cert", pki / "server.pem", "--tls-key", pki / "server.key"]
    flags += ["--tls-client-ca", pki / "authority.pem", "--token-file", path]
    with serving(checkpoints, pki / "data", *map(str, flags)) as running:
        yield running


@contextmanager
def channel_of(
    server: ServerProcess, pki: Path, name: str, root: str = "authority"
) -> Iterator[grpc.Channel]:
    """A new connection with the certificate of a caller."""
    files = (pki / f"{root}.pem", pki / f"{name}.key", pki / f"{name}.pem")
    credentials = grpc.ssl_channel_credentials(*(file.read_bytes() for file in files))
    # Without an option of its own it would share the connection of an earlier channel.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(server.address, credentials, options) as channel:
        yield channel


def test_a_certificate_stands_for_a_caller_and_a_role(server: ServerProcess, pki: Path) -> None:
    with channel_of(server, pki, "workshop") as channel:
        made = Api(channel).create(spec(), images())
        assert Api(channel).end_of(made.name).state == SUCCEEDED
    with channel_of(server, pki, "board") as channel:
        display = Api(channel)
        assert refused(display.get, made.name).reason == "UNKNOWN_ADAPTATION"
        assert refused(display.create, spec(), images()).reason == "ROLE_INSUFFICIENT"
        assert display.checkpoints.ListCheckpoints(ListCheckpointsRequest()).checkpoints


def test_a_certificate_that_the_file_does_not_know(
    server: ServerProcess, pki: Path, path: Path
) -> None:
    with channel_of(server, pki, "stranger") as channel:
        api = Api(channel)
        assert refused(api.create, spec(), images()).reason == "UNAUTHENTICATED"
        # The names of certificates are no secrets, and no tokens.
        for sent in ("workshop", f"certificate {BOARD}", BOARD):
            guessing = Api(with_token(channel, sent))
            assert refused(guessing.create, spec(), images()).reason == "UNAUTHENTICATED"
        tokens.create_certificate(path, "guest", Role.READ, "stranger")
        assert api.checkpoints.ListCheckpoints(ListCheckpointsRequest()).checkpoints
        assert tokens.revoke(path, "guest", None) == 1
        answer = refused(api.checkpoints.ListCheckpoints, ListCheckpointsRequest())
        assert answer.reason == "UNAUTHENTICATED"


def test_a_token_wins_over_a_certificate(server: ServerProcess, pki: Path, path: Path) -> None:
    secret = tokens.create(path, "admin", Role.ADMIN)
    with channel_of(server, pki, "board") as channel:
        Api(with_token(channel, secret)).create(spec(), images())
        answer = refused(Api(with_token(channel, "wrong")).create, spec(), images())
        assert answer.reason == "UNAUTHENTICATED"


def test_the_command_lists_certificates(tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        words = [sys.executable, "-m", "metanas_server", "tokens", *arguments]
        file = ["--token-file", str(tmp_path / "tokens")]
        done = subprocess.run(
            [*words, *file], capture_output=True, text=True, check=True, env=ENVIRONMENT
        )
        return done.stdout

    assert command("create", "display", "--role", "read", "--certificate", BOARD) == ""
    _, row = command("list").splitlines()
    assert row.split()[1::2] == ["read", "display"]
    assert row.endswith(BOARD)
    assert command("revoke", "display") == "revoked: 1\n"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 257])
def test_names_that_no_certificate_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match="is no name of a certificate"):
        tokens.create_certificate(tmp_path / "tokens", "caller", Role.READ, name)


def test_a_certificate_belongs_to_one_caller(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    tokens.create_certificate(path, "one", Role.READ, BOARD)
    with pytest.raises(StartError, match="stands for 'one'"):
        tokens.create_certificate(path, "two", Role.ADMIN, BOARD)


def test_new_certificates_without_a_restart(server: ServerProcess, pki: Path) -> None:
    """Last in the file: the server has another certificate afterwards."""

    def trusted(root: str) -> bool:
        with channel_of(server, pki, "board", root) as channel:
            try:
                Api(channel).checkpoints.ListCheckpoints(ListCheckpointsRequest(), timeout=60)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                return False
            return True

    other = certificate(pki, "other")
    certificate(pki, "next", other)
    assert (trusted("authority"), trusted("other")) == (True, False)
    (pki / "next.key").replace(pki / "server.key")
    assert (trusted("authority"), trusted("other")) == (True, False)  # they do not belong together
    (pki / "next.pem").replace(pki / "server.pem")
    assert (trusted("authority"), trusted("other")) == (False, True)
