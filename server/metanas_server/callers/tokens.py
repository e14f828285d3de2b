"""The token file: one JSON line for each token, with its name, its role and its SHA-256.

A line can stand for a client certificate instead, by one of its names.

A token is 256 random bits, so its plain digest reveals nothing, and no attacker can guess it. The
file is replaced as a whole, so a reader never sees half of it.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from metanas_server.disk import sync_folder
from metanas_server.errors import StartError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PREFIX = "metanas_"
"""Start of each token, by which scanners for leaked secrets find it."""
RANDOM_BYTES = 32
ID_DIGITS = 8
MAX_CERTIFICATE = 256  # characters
REFUSED_MODE = 0o027
"""Bits of a refused file: other users have access, or the group can write."""


class Role(StrEnum):
    """The calls that a token is for; each role includes those before it."""

    READ = "read"
    USE = "use"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Return True if this role allows all that the other one allows."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token as the file has it.

    name: the caller; several tokens may have the same one.
    sha256: the digest of the token or of the certificate's name, in hexadecimal digits; its start
        is the id.
    certificate: a name in a client certificate; empty for a token.
    created: date and time (ISO 8601, UTC).
    """

    name: str
    role: Role
    sha256: str
    created: str
    certificate: str = ""

    @property
    def id(self) -> str:
        """The id, by which one token of a caller is revoked."""
        return self.sha256[:ID_DIGITS]


def is_name(text: str) -> bool:
    """Return True if a caller can have this name."""
    return NAME.fullmatch(text) is not None


def digest_of(secret: bytes) -> str:
    """Return the digest of a token."""
    return hashlib.sha256(secret).hexdigest()


def read(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file.

    Raises:
        StartError: TOKEN_INVALID, the file cannot be read, other users can, or a line is no token.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & REFUSED_MODE:
                message = f"other users can read or change {path}; run: chmod 600 {path}"
                raise StartError("TOKEN_INVALID", message)
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
        message = f"{path} cannot be read: {cause}; make it with: metanas-server tokens create NAME"
        raise StartError("TOKEN_INVALID", message) from error
    return tuple(_token(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def create(path: Path, name: str, role: Role) -> str:
    """Add a token to a file, which is created if it is missing; return the token.

    Raises:
        StartError: TOKEN_INVALID, the name or the file cannot be used.
    """
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    _add(path, name, role, secret, "")
    return secret


def create_certificate(path: Path, name: str, role: Role, certificate: str) -> None:
    """Let callers with a client certificate in; the file is created if it is missing.

    certificate: the common name, or a DNS name, URI or e-mail address among the alternative ones.

    Raises:
        StartError: TOKEN_INVALID, a name or the file cannot be used, or has the certificate.
    """
    if not (certificate.isprintable() and 0 < len(certificate) <= MAX_CERTIFICATE):
        message = f"{certificate!r} is no name of a certificate; give its common name or URI"
        raise StartError("TOKEN_INVALID", message)
    _add(path, name, role, certificate, certificate)


def _add(path: Path, name: str, role: Role, secret: str, certificate: str) -> None:
    if not is_name(name):
        message = f"{name!r} is no name; use at most 64 letters, digits, dots, hyphens, underscores"
        raise StartError("TOKEN_INVALID", message)
    token = Token(
        name=name,
        role=role,
        sha256=digest_of(secret.encode()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        certificate=certificate,
    )

    def add(tokens: Sequence[Token]) -> Sequence[Token]:
        known = [each for each in tokens if certificate and each.certificate == certificate]
        if known:
            message = f"the certificate {certificate!r} stands for {known[0].name!r}; revoke it"
            raise StartError("TOKEN_INVALID", message)
        return (*tokens, token)

    _change(path, add)


def revoke(path: Path, name: str, id_: str | None) -> int:
    """Remove the tokens of a caller, or only the one with this id; return their number.

    Raises:
        StartError: TOKEN_INVALID, there is no such token, or the file cannot be used.
    """

    def others(tokens: Sequence[Token]) -> list[Token]:
        kept = [each for each in tokens if each.name != name or id_ not in (None, each.id)]
        if len(kept) == len(tokens):
            which = f"{name!r}" if id_ is None else f"{name!r} with the id {id_!r}"
            message = f"there is no token {which}; see: metanas-server tokens list"
            raise StartError("TOKEN_INVALID", message)
        return kept

    return _change(path, others)


def _change(path: Path, change: Callable[[Sequence[Token]], Sequence[Token]]) -> int:
    """Replace the tokens of a file; return the number by which they have become fewer."""
    path = path.resolve()  # the file itself is replaced, not a link to it
    try:
        with _locked(path.parent):
            before = read(path) if path.exists() else ()
            after = change(before)
            _replace(path, "".join(json.dumps(asdict(each)) + "\n" for each in after))
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}; give another --token-file"
        raise StartError("TOKEN_INVALID", message) from error
    return len(before) - len(after)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other commands from changing a file of this folder at the same time."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        partial.replace(path)
        sync_folder(path.parent)  # else a revoked token is back after a power loss
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _token(path: Path, number: int, line: str) -> Token:
    try:
        fields = json.loads(line)
        token = Token(**{**fields, "role": Role(fields["role"])})
        valid = (
            NAME.fullmatch(token.name)
            and re.fullmatch(r"[0-9a-f]{64}", token.sha256)
            and isinstance(token.certificate, str)
        ) or None
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = None
    if valid is None:
        message = (
            f"line {number} of {path} is no token; delete it, and make tokens with: "
            "metanas-server tokens create NAME"
        )
        raise StartError("TOKEN_INVALID", message)
    return token
