"""Signatures of model files: a statement of in-toto in a DSSE envelope, signed by Ed25519.

The statement names the SHA-256 of the file, and the checkpoint, options and versions that made it.
Needs the extra "sign". References: the in-toto Attestation Framework, version 1, and the Dead
Simple Signing Envelope (DSSE), version 1.0.2.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanas_client.errors import InvalidInput, SignatureError
from metanas_client.extras import needs

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:metanas:adaptation:v1"
SUFFIX = ".intoto.jsonl"
"""Ending of the file beside a model that has its signature."""
MOST_BYTES = 1_000_000
"""Most bytes of a file with a signature or a key; those of this program have a few kilobytes."""


def sign(onnx: bytes, name: str, facts: Mapping[str, str], key: Path) -> str:
    """Sign a model file; return the envelope as one line of JSON.

    Args:
        onnx: the bytes of the file.
        name: its name, for readers: the digest identifies it.
        facts: its provenance.
        key: PEM file of a private Ed25519 key.

    Raises:
        InvalidInput: the key cannot be used.
        MissingExtra: the extra "sign" is not installed.
    """
    private = _private_key(key)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(onnx).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(facts),
    }
    payload = json.dumps(statement, sort_keys=True).encode()
    signature = {
        "keyid": key_id(private.public_key()),
        "sig": base64.b64encode(private.sign(_encoded(PAYLOAD_TYPE, payload))).decode(),
    }
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [signature],
    }
    return json.dumps(envelope) + "\n"


def verify(onnx: bytes, envelope: Path, key: Path) -> dict[str, Any]:
    """Check that the owner of a key signed exactly this file; return the statement.

    Args:
        onnx: the bytes of the file.
        envelope: file that `sign` made.
        key: PEM file of the public Ed25519 key.

    Raises:
        SignatureError: SIGNATURE_MISSING, SIGNATURE_MALFORMED, SIGNATURE_KEY (made by another key,
            or changed) or SIGNATURE_FILE (the signature of another file).
        InvalidInput: the key cannot be used.
        MissingExtra: the extra "sign" is not installed.
    """
    public = _public_key(key)
    kind, payload, signatures = _read(envelope)
    if not any(_signed(public, each, _encoded(kind, payload)) for each in signatures):
        message = (
            f"{envelope} is not signed by the key in {key} ({key_id(public)[:16]}): "
            "take the public key of the signer, or get the signature again"
        )
        raise SignatureError("SIGNATURE_KEY", message)
    statement = _statement(kind, payload, envelope)
    digest = hashlib.sha256(onnx).hexdigest()
    if digest not in [each["digest"].get("sha256") for each in statement["subject"]]:
        message = f"the file has changed, or {envelope} signs another one: its SHA-256 is {digest}"
        raise SignatureError("SIGNATURE_FILE", message)
    return statement


def key_id(key: "Ed25519PublicKey") -> str:
    """Return the SHA-256 of a public key in its DER form."""
    from cryptography.hazmat.primitives import serialization as form

    der = key.public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _encoded(kind: str, payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's pre-authentication encoding."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _signed(key: "Ed25519PublicKey", signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> tuple[str, bytes, list[bytes]]:
    """Return the type, the payload and the signatures of an envelope."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES)
    except OSError as error:
        message = (
            f"there is no signature in {path}: {error.strerror or error}; get it from the signer, "
            "or name its file with --signature"
        )
        raise SignatureError("SIGNATURE_MISSING", message) from error
    try:
        envelope = json.loads(raw)
        signatures = [base64.b64decode(each["sig"]) for each in envelope["signatures"]]
        return str(envelope["payloadType"]), base64.b64decode(envelope["payload"]), signatures
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"{path} is no DSSE envelope; get the signature again"
        raise SignatureError("SIGNATURE_MALFORMED", message) from error


def _statement(kind: str, payload: bytes, path: Path) -> dict[str, Any]:
    try:
        statement: dict[str, Any] = json.loads(payload)
        known = kind == PAYLOAD_TYPE and statement["_type"] == STATEMENT_TYPE
        digests = [each["digest"].get("sha256") for each in statement["subject"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_statement(path) from error
    if not known or not digests:
        raise _no_statement(path)
    return statement


def _no_statement(path: Path) -> SignatureError:
    message = f"{path} signs no statement of in-toto about a file"
    return SignatureError("SIGNATURE_MALFORMED", message)


def _private_key(path: Path) -> "Ed25519PrivateKey":
    with needs("sign"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(_pem(path), password=None)
    except TypeError as error:  # it is encrypted
        message = f"{path} has a passphrase; decrypt it: openssl pkey -in {path} -out key.pem"
        raise InvalidInput.single("key", "KEY_ENCRYPTED", message) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "private") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "private")
    return key


def _public_key(path: Path) -> "Ed25519PublicKey":
    with needs("sign"):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        key = load_pem_public_key(_pem(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "public") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable(path, "public")
    return key


def _pem(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        message = f"cannot read {path}: {error.strerror or error}"
        raise InvalidInput.single("key", "KEY_UNREADABLE", message) from error


def _unusable(path: Path, kind: str) -> InvalidInput:
    make = {
        "private": "openssl genpkey -algorithm ed25519 -out key.pem",
        "public": "openssl pkey -in key.pem -pubout -out public.pem",
    }[kind]
    message = f"{path} has no {kind} Ed25519 key in PEM; make one: {make}"
    return InvalidInput.single("key", "KEY_UNUSABLE", message)
