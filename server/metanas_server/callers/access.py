"""The identity of each call: the caller by its token, and the role that the call needs."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from metanas_server.callers.tokens import Role, Token, digest_of, read
from metanas_server.errors import Forbidden, StartError, Unauthenticated, Unavailable
from metanas_server.watched import stamp

LOG = logging.getLogger(__name__)
WITHOUT_TOKEN = "/grpc.health.v1.Health/"  # probes of service managers send no token
READING = ("Get", "List", "Watch", "Download", "Server", "Model", "RepositoryIndex")
"""Starts of the methods that the role `read` allows; the others need the role `use`."""
SCHEME = b"Bearer "
CERTIFICATE = "certificate "
"""Start of the keys of certificates; digests have no space."""
CERTIFICATE_NAMES = ("peer_uri", "peer_dns", "peer_email", "x509_common_name")
"""Properties of a connection, as gRPC calls them."""

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
        self._stamp = stamp(path)
        self._tokens: Mapping[str, Token] | None = self._read()
        if not self._tokens:
            LOG.warning("%s holds no token, so each call is refused: create one", path)

    def find(self, secret: bytes) -> Token | None:
        """Return the token with these bytes; None if there is none.

        Raises:
            Unavailable: TOKENS_UNREADABLE.
        """
        return self.entries().get(digest_of(secret))

    def find_certificate(self, names: Iterable[str]) -> Token | None:
        """Return the entry for the first of these names of a certificate that has one.

        Raises:
            Unavailable: TOKENS_UNREADABLE.
        """
        entries = self.entries()
        known = (entries.get(CERTIFICATE + name) for name in names)
        return next((entry for entry in known if entry is not None), None)

    def entries(self) -> Mapping[str, Token]:
        """Return the entries of the file as it is now: another object after each change.

        A file that cannot be used any more lets no caller in: a revoked token could be in it.

        Raises:
            Unavailable: TOKENS_UNREADABLE.
        """
        now = stamp(self._path)
        if now != self._stamp:
            self._stamp = now
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
        return self._tokens

    def _read(self) -> Mapping[str, Token]:
        return {
            CERTIFICATE + token.certificate if token.certificate else token.sha256: token
            for token in read(self._path)
        }


class Callers:
    """Tell the callers of this server apart.

    With tokens each name is a caller. A client certificate stands for a token if the file has one
    of its names; a token that is sent wins. Without a file everything belongs to one owner, and
    each address is a caller with quotas of its own.
    """

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens

    def of(self, context: Context) -> Caller:
        """Return the caller of a call.

        Raises:
            Unauthenticated: UNAUTHENTICATED, its token is missing or unknown.
            Unavailable: TOKENS_UNREADABLE.
        """
        address = address_of(context)
        if self._tokens is None:
            return self.identify(address, b"")
        sent = _authorization(context.invocation_metadata())
        return self.identify(address, sent, () if sent else certificate_names(context))

    def identify(self, address: str, sent: bytes, names: Iterable[str] = ()) -> Caller:
        """Return the caller at an address that has sent this value of `authorization`.

        names: those of its client certificate.

        Raises:
            Unauthenticated, Unavailable: see `of`.
        """
        if self._tokens is None:
            return Caller(name=address, owner="", role=Role.ADMIN)
        if sent.startswith(SCHEME):
            known = self._tokens.find(sent.removeprefix(SCHEME))
        else:
            known = self._tokens.find_certificate(names)
        if known is None:
            text = (
                "send 'authorization: Bearer TOKEN' with a token of this server, or use a client"
                " certificate that it knows"
            )
            raise Unauthenticated("UNAUTHENTICATED", text)
        return Caller(name=known.name, owner=known.name, role=known.role)

    def admit(self, context: Context, method: str, before: object = None) -> object:
        """Refuse a call that its caller may not make.

        A stream has a check for each message, so only a change of the tokens repeats the work.

        method: the full name, as gRPC has it: "/metanas.v1.ModelService/GetModel".
        before: the value that the last check of this call has returned.

        Raises:
            Unauthenticated, Unavailable: see `of`.
            Forbidden: ROLE_INSUFFICIENT.
        """
        if self._tokens is None or method.startswith(WITHOUT_TOKEN):
            return None
        entries = self._tokens.entries()
        if entries is not before:
            self.of(context).require_for(method)
        return entries


def address_of(context: Context) -> str:
    """Return the address of a caller, without the port of its connection."""
    return str(context.peer()).rpartition(":")[0]


def certificate_names(context: Context) -> list[str]:
    """Return the names in the client certificate of a call: alternative ones, then the common one.

    gRPC has checked the certificate against --tls-client-ca.
    """
    found = context.auth_context()
    names = [name for kind in CERTIFICATE_NAMES for name in found.get(kind, ())]
    return [name.decode("utf-8", "replace") for name in names]


def _authorization(metadata: Any) -> bytes:
    value = dict(metadata or ()).get("authorization", "")
    return value if isinstance(value, bytes) else value.encode()
