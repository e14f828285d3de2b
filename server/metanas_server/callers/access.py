"""The identity of each call: the caller by its token, and the role that the call needs."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from metanas_server.callers.tokens import Role, Token, digest_of, read
from metanas_server.errors import Forbidden, StartError, Unauthenticated, Unavailable

LOG = logging.getLogger(__name__)
WITHOUT_TOKEN = "/grpc.health.v1.Health/"  # probes of service managers send no token
READING = ("Get", "List", "Watch", "Download", "Server", "Model", "RepositoryIndex")
"""Starts of the methods that the role `read` allows; the others need the role `use`."""
SCHEME = b"Bearer "

Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The caller of a call.

    name: for its quotas and for the log.
    owner: the owner of the adaptations and models that it makes.
    """

    name: str
    owner: str
    role: Role

    @property
    def scope(self) -> str | None:
        """The owner whose adaptations and models the caller sees; None stands for all owners."""
        return None if self.role is Role.ADMIN else self.owner

    def require_for(self, method: str) -> None:
        """Refuse a call that needs another role.

        method: the full name, as gRPC has it: "/metanas.v1.ModelService/GetModel".

        Raises:
            Forbidden: ROLE_INSUFFICIENT.
        """
        needed = Role.READ if method.rpartition("/")[2].startswith(READING) else Role.USE
        if not self.role.includes(needed):
            text = f"this call needs a token with the role {needed}, and yours has {self.role}"
            raise Forbidden("ROLE_INSUFFICIENT", text)


class TokenFile:
    """The tokens of a file, read again as soon as it has changed."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            StartError: TOKEN_INVALID.
        """
        self._path = path
        self._stamp = self._look()
        self._tokens: Mapping[str, Token] | None = self._read()
        if not self._tokens:
            LOG.warning("%s holds no token, so each call is refused: create one", path)

    def find(self, secret: bytes) -> Token | None:
        """Return the token with these bytes; None if there is none.

        A file that cannot be used any more lets no caller in: a revoked token could be in it.

        Raises:
            Unavailable: TOKENS_UNREADABLE.
        """
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._tokens = self._read()
                LOG.info("read %d tokens from %s", len(self._tokens), self._path)
            except StartError as error:
                self._tokens = None
                LOG.critical("all calls are refused until this is repaired: %s", error)
        if self._tokens is None:
            message = (
                "the server cannot read its tokens; tell its operator, who finds why in its log"
            )
            raise Unavailable("TOKENS_UNREADABLE", message)
        return self._tokens.get(digest_of(secret))

    def _read(self) -> Mapping[str, Token]:
        return {token.sha256: token for token in read(self._path)}

    def _look(self) -> tuple[int, ...]:
        """Return numbers that differ as soon as the file has changed."""
        try:
            status = os.stat(self._path)
        except OSError:
            return ()
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Callers:
    """Tell the callers of this server apart.

    With tokens each name is a caller. Without tokens everything belongs to one owner, and each
    address is a caller with quotas of its own.
    """

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens

    def of(self, context: Context) -> Caller:
        """Return the caller of a call.

        Raises:
            Unauthenticated: UNAUTHENTICATED, its token is missing or unknown.
            Unavailable: TOKENS_UNREADABLE.
        """
        address = context.peer().rpartition(":")[0]
        return self.identify(address, _authorization(context.invocation_metadata()))

    def identify(self, address: str, sent: bytes) -> Caller:
        """Return the caller at an address that has sent this value of `authorization`.

        Raises:
            Unauthenticated, Unavailable: see `of`.
        """
        if self._tokens is None:
            return Caller(name=address, owner="", role=Role.ADMIN)
        known = self._tokens.find(sent.removeprefix(SCHEME)) if sent.startswith(SCHEME) else None
        if known is None:
            text = "send 'authorization: Bearer TOKEN' with a token of this server"
            raise Unauthenticated("UNAUTHENTICATED", text)
        return Caller(name=known.name, owner=known.name, role=known.role)

    def admit(self, context: Context, method: str) -> None:
        """Refuse a call that its caller may not make.

        method: the full name, as gRPC has it: "/metanas.v1.ModelService/GetModel".

        Raises:
            Unauthenticated, Unavailable: see `of`.
            Forbidden: ROLE_INSUFFICIENT.
        """
        if method.startswith(WITHOUT_TOKEN):
            return
        self.of(context).require_for(method)


def _authorization(metadata: Any) -> bytes:
    value = dict(metadata or ()).get("authorization", "")
    return value if isinstance(value, bytes) else value.encode()
