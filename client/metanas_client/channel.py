"""Connection to a server: address, TLS, token, retries, and the translation of gRPC errors."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# the log of gRPC's core repeats failed handshakes line by line; our errors contain the cause
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
from google.rpc import error_details_pb2, status_pb2

from metanas_client import errors
from metanas_client.errors import (
    ClientError,
    Fault,
    ForkedProcess,
    InvalidInput,
    Unavailable,
    Violation,
)
from metanas_client.network import advice, check_address, is_local, proxy_for

DEFAULT_ADDRESS = "127.0.0.1:50051"
STATUS_DETAILS_KEY = "grpc-status-details-bin"  # trailer with a google.rpc.Status
METANAS_DOMAIN = "metanas"
SHORTEST_KEEPALIVE = 1.0
DEFAULT_KEEPALIVE = 20.0
"""Above the 10 seconds that a MetaNAS server requires between two pings."""
_USERS: set[int] = set()
"""Processes that have opened a channel. gRPC polls all channels from one thread of the process. A
forked child lacks this thread, so it must not open a channel, even if its parent has closed all."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Settings of a connection to a server."""

    address: str = DEFAULT_ADDRESS
    """host:port."""
    root_certificate: Path | None = None
    """PEM file of the authority that signed the server's certificate; switches TLS on."""
    certificate: Path | None = None
    """PEM file of the client's certificate, for servers that require one (mTLS)."""
    private_key: Path | None = None
    """PEM file of the key of `certificate`."""
    tls: bool = False
    """Use TLS with the authorities that the system trusts."""
    token: str | None = None
    """Sent as `authorization: Bearer ...` with every call."""
    patience: float = 30.0
    """Seconds to retry an interrupted progress stream or download."""
    keepalive: float = DEFAULT_KEEPALIVE
    """Seconds of silence during a call until a ping to the server. The connection is closed after
    the same time without an answer. At least 1."""

    def __post_init__(self) -> None:
        check_address(self.address)
        if (self.certificate is None) != (self.private_key is None):
            raise InvalidInput.single(
                "certificate", "TLS", "certificate and private key go together: give both"
            )
        token = self.token
        if token is not None and (not token.isascii() or token.split() != [token]):
            message = "must be ASCII without spaces and line breaks, as in the server's token file"
            raise InvalidInput.single("token", "TOKEN", message)
        if self.patience < 0:
            raise InvalidInput.single("patience", "PATIENCE", "must not be negative")
        if self.keepalive < SHORTEST_KEEPALIVE:
            raise InvalidInput.single(
                "keepalive", "KEEPALIVE", f"must be at least {SHORTEST_KEEPALIVE:g} second"
            )

    @property
    def secure(self) -> bool:
        """True if the connection uses TLS."""
        return self.tls or self.root_certificate is not None or self.certificate is not None

    @property
    def metadata(self) -> Sequence[tuple[str, str]]:
        """Metadata of every call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)


def open_channel(connection: Connection) -> grpc.aio.Channel:
    """Open a channel within the running event loop; it connects at the first call.

    Raises:
        InvalidInput: a certificate or key file cannot be read.
        ForkedProcess: this process was forked after a channel was opened.
    """
    process = os.getpid()
    parents = _USERS - {process}
    if parents:
        raise ForkedProcess(parents.pop())
    channel = _channel(connection)
    _USERS.add(process)
    return channel


def _channel(connection: Connection) -> grpc.aio.Channel:
    options = [
        ("grpc.service_config", _service_config()),
        ("grpc.enable_retries", 1),
        *ping_options(connection.keepalive),
        ("grpc.enable_http_proxy", int(not is_local(connection.address))),
    ]
    if not connection.secure:
        return grpc.aio.insecure_channel(connection.address, options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(connection.root_certificate, "root_certificate"),
        private_key=_pem(connection.private_key, "private_key"),
        certificate_chain=_pem(connection.certificate, "certificate"),
    )
    return grpc.aio.secure_channel(connection.address, credentials, options)


def ping_options(keepalive: float) -> Sequence[tuple[str, int]]:
    """Return the options of a channel that end its calls after twice `keepalive` of silence.

    gRPC also sends pings by itself, and no data that arrives meanwhile stops their timeout. So it
    has to be longer than the way through the full buffers of a slow link.
    """
    milliseconds = round(1000 * keepalive)
    return [
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.http2.ping_timeout_ms", 2 * milliseconds),
        ("grpc.http2.max_pings_without_data", 0),  # 0: no limit on their number
    ]


def broken(error: grpc.aio.AioRpcError) -> bool:
    """Return True if the connection broke, so that the call can be repeated or continued."""
    # A server that stops ends a stream with CANCELLED. Cancellation on this side raises
    # asyncio.CancelledError instead.
    return error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def translate(
    error: grpc.aio.AioRpcError, connection: Connection, unfinished: str = ""
) -> ClientError:
    """Turn a failed call into an error of this package.

    unfinished: how to come back to the work that was under way, if no server answers.
    """
    fault = read_fault(error)
    translated = errors.error_for(fault, connection.address)
    if not isinstance(translated, Unavailable):
        return translated
    hint = advice(
        connection.address,
        fault.message,
        secure=connection.secure,
        certificate=connection.certificate is not None,
        proxy=proxy_for(connection.address, os.environ),
    )
    return Unavailable(connection.address, fault.message, hint, unfinished=unfinished)


def read_fault(error: grpc.aio.AioRpcError) -> Fault:
    """Read code, reason, violations and retry delay from a failed call."""
    status = _status(error)
    fault = Fault(code=error.code().name, reason="", message=error.details() or error.code().name)
    if status is None:
        return fault
    reason, violations, retry_after = "", [], None
    for detail in status.details:
        info, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = info.reason if info.domain == METANAS_DOMAIN else reason
        elif detail.Unpack(bad):
            violations = [Violation(v.field, v.reason, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return Fault(
        code=fault.code,
        reason=reason,
        message=status.message or fault.message,
        violations=tuple(violations),
        retry_after=retry_after,
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return None


def _service_config() -> str:
    # AIP-194: only UNAVAILABLE is retried automatically. All calls of the services may be retried:
    # creating carries a request id, deleting and cancelling twice is harmless.
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.2s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})


def _pem(path: Path | None, field: str) -> bytes | None:
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise InvalidInput((Violation(field, "FILE_UNREADABLE", why, str(path)),)) from error
    if b"-----BEGIN " not in data:
        message = "is not in PEM form, which begins with -----BEGIN; name another file"
        raise InvalidInput((Violation(field, "TLS", message, str(path)),))
    return data
