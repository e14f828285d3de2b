"""Signatures of model files: a good one, and everything that must not pass for one."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from metanas_client.__main__ import main
from metanas_client.publish.signature import PAYLOAD_TYPE, SUFFIX


def write_pair(folder: Path, name: str, key: ed25519.Ed25519PrivateKey) -> None:
    """Write a private key and its public key, as openssl does."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / f"{name}.pem").write_bytes(private)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / f"{name}.pub").write_bytes(public)


@pytest.fixture
def signed(model_file: Path, tmp_path: Path) -> Path:
    """A folder with two pairs of keys, and a model signed by the first one."""
    for name in ("mine", "other"):
        write_pair(tmp_path, name, ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "m.onnx").write_bytes(model_file.read_bytes())
    assert main(["sign", str(tmp_path / "m.onnx"), "--key", str(tmp_path / "mine.pem")]) == 0
    return tmp_path


def verify(folder: Path, key: str = "mine.pub", *flags: str) -> int:
    return main(["verify", str(folder / "m.onnx"), "--key", str(folder / key), *flags])


def envelope(folder: Path) -> Path:
    return folder / f"m.onnx{SUFFIX}"


def test_a_signed_file_is_verified(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert verify(signed, "mine.pub", "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert (checks[0]["name"], checks[0]["passed"]) == ("signature", True)
    assert "conformance" in {each["name"] for each in checks}
    payload = json.loads(envelope(signed).read_text(encoding="utf-8"))["payload"]
    statement = json.loads(base64.b64decode(payload))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["checkpoint"] == "tiny"
    assert set(statement["predicate"]) >= {"checkpoint_digest", "options", "version", "seed"}


def test_another_tool_verifies_the_envelope(signed: Path) -> None:
    for name, valid in (("mine", True), ("other", False)):
        document = json.loads(envelope(signed).read_text(encoding="utf-8"))
        public = serialization.load_pem_public_key((signed / f"{name}.pub").read_bytes())
        assert isinstance(public, ed25519.Ed25519PublicKey)
        key = SSlibKey.from_crypto(public, document["signatures"][0]["keyid"])
        if valid:
            assert Envelope.from_dict(document).verify([key], 1)
        else:
            with pytest.raises(VerificationError):
                Envelope.from_dict(document).verify([key], 1)


def test_what_is_not_signed_does_not_pass(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(expected: str, key: str = "mine.pub") -> None:
        capsys.readouterr()
        assert verify(signed, key) == 1
        shown = capsys.readouterr()
        assert expected in shown.err
        assert shown.out == ""

    refused("is not signed by the key", "other.pub")
    good = envelope(signed).read_text(encoding="utf-8")
    model = (signed / "m.onnx").read_bytes()
    (signed / "m.onnx").write_bytes(model + b"x")
    refused("the file has changed")
    (signed / "m.onnx").write_bytes(model)
    document = json.loads(good)
    payload = base64.b64decode(document["payload"]).replace(b"tiny", b"huge")
    changed = {**document, "payload": base64.b64encode(payload).decode()}
    envelope(signed).write_text(json.dumps(changed), encoding="utf-8")
    refused("is not signed by the key")
    for damaged in ("", "[]", "{}", good[:-20], "[" * 100_000, '{"payloadType": 1}'):
        envelope(signed).write_text(damaged, encoding="utf-8")
        refused("no DSSE envelope")
    envelope(signed).unlink()
    refused("there is no signature in")
    refused("name its file with --signature")
    envelope(signed).write_text(good, encoding="utf-8")
    assert verify(signed) == 0


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"7", b"{}", b'{"_type": "https://in-toto.io/Statement/v1", "subject": []}', b"\xff"],
)
def test_other_signed_statements_do_not_pass(
    signed: Path, payload: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    private = serialization.load_pem_private_key((signed / "mine.pem").read_bytes(), None)
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    kind = PAYLOAD_TYPE.encode()
    data = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    signature = base64.b64encode(private.sign(data)).decode()
    document = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": signature}],
    }
    envelope(signed).write_text(json.dumps(document), encoding="utf-8")
    assert verify(signed) == 1
    assert "signs no statement" in capsys.readouterr().err


def test_keys_that_cannot_be_used_are_refused(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private = serialization.load_pem_private_key((signed / "mine.pem").read_bytes(), None)
    locked = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (signed / "locked.pem").write_bytes(locked)
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    (signed / "ec.pub").write_bytes(
        elliptic.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    for key, expected in {
        "none": "cannot read",
        "mine.pem": "pkey -in",
        "ec.pub": "no pub",
    }.items():
        assert verify(signed, key) == 2
        assert expected in capsys.readouterr().err
    for key, expected in {"mine.pub": "genpkey", "locked.pem": "has a passphrase"}.items():
        command = ["sign", str(signed / "m.onnx"), "--key", str(signed / key), "--force"]
        assert main(command) == 2
        assert expected in capsys.readouterr().err


def test_a_signature_is_replaced_on_demand_only(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sign", str(signed / "m.onnx"), "--key", str(signed / "mine.pem")]
    assert main(command) == 2
    assert "add --force" in capsys.readouterr().err
    assert main([*command, f"--out={signed / 'x.jsonl'}"]) == 0
    assert verify(signed, "mine.pub", f"--signature={signed / 'x.jsonl'}") == 0
