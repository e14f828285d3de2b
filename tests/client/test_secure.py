"""TLS, mutual TLS and tokens against a real server."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metanas_client import Client, InvalidInput, NotAllowed, Unavailable
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.certificates import certificate
from tests.client.conftest import running_server
from tests.client.test_cli import metanas

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("pki"), "authority")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secured")


@pytest.fixture(scope="module")
def right(folder: Path) -> str:
    """The token of the caller, in the token file of the server."""
    return tokens.create(folder / "tokens", "workshop", Role.USE)


@pytest.fixture(scope="module")
def secured(checkpoints: Path, authority: Path, folder: Path, right: str) -> Iterator[str]:
    """A server that wants TLS on both sides and a token."""
    own = certificate(folder, "server", authority)
    flags: list[object] = ["--tls-cert", own, "--tls-key", own.with_suffix(".key")]
    flags += ["--tls-client-ca", authority, "--token-file", folder / "tokens"]
    with running_server(checkpoints, folder / "data", *flags) as address:
        yield address


@pytest.fixture(scope="module")
def mine(authority: Path) -> Path:
    return certificate(authority.parent, "client", authority)


def test_with_certificate_and_token(secured: str, authority: Path, mine: Path, right: str) -> None:
    with Client(
        secured,
        root_certificate=authority,
        certificate=mine,
        private_key=mine.with_suffix(".key"),
        token=right,
    ) as client:
        assert client.checkpoints()[0].name == "checkpoints/tiny"


def test_a_certificate_is_a_pem_file(tmp_path: Path) -> None:
    (tmp_path / "ca.der").write_bytes(b"0\x82\x01\x0a")
    with (
        pytest.raises(InvalidInput, match="not in PEM form") as caught,
        Client("127.0.0.1:9", root_certificate=tmp_path / "ca.der") as client,
    ):
        client.checkpoints()
    assert caught.value.violations[0].source == str(tmp_path / "ca.der")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token(secured: str, authority: Path, mine: Path, token: str | None) -> None:
    with (
        Client(
            secured,
            root_certificate=authority,
            certificate=mine,
            private_key=mine.with_suffix(".key"),
            token=token,
        ) as client,
        pytest.raises(NotAllowed),
    ):
        client.checkpoints()


def test_without_a_certificate(secured: str, authority: Path, right: str) -> None:
    for root in (authority, None):
        with (
            Client(secured, root_certificate=root, token=right) as client,
            pytest.raises(Unavailable),
        ):
            client.checkpoints()


def test_the_missing_part_of_tls_is_named(secured: str, authority: Path, right: str) -> None:
    with Client(secured, token=right) as client, pytest.raises(Unavailable, match="add --tls"):
        client.checkpoints()
    with (
        Client(secured, tls=True, token=right) as client,
        pytest.raises(Unavailable, match="not trusted: name its authority with --ca"),
    ):
        client.checkpoints()
    with (
        Client(secured, root_certificate=authority, token=right) as client,
        pytest.raises(Unavailable, match="See --cert, --key"),
    ):
        client.checkpoints()


def test_from_the_command_line(secured: str, authority: Path, mine: Path, right: str) -> None:
    flags: list[object] = ["--server", secured, "--ca", authority]
    flags += ["--cert", mine, "--key", mine.with_suffix(".key")]
    assert metanas("checkpoints", *flags, METANAS_TOKEN=right).returncode == 0
    refused = metanas("checkpoints", *flags)
    assert refused.returncode == 4
    assert "Traceback" not in refused.stderr
