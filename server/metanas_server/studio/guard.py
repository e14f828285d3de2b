"""Guard the page and its API: host, origin, and the headers of every answer."""

import json
from dataclasses import asdict
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metanas_server.errors import Forbidden, ServiceError
from metanas_server.resources import Failure
from metanas_server.sockets import is_loopback
from metanas_server.status import code_of, describe

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",  # the second for ONNX Runtime alone
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 408,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
"""Canonical code -> status of HTTP; all others are 500."""
TOO_LARGE = ("IMAGE_TOO_LARGE", "REQUEST_TOO_LARGE", "TOO_MANY_BYTES")
"""Reasons with the status 413."""
SAFE_METHODS = ("GET", "HEAD")


def http_status(failure: Failure) -> int:
    """Return the HTTP status of a failure."""
    return 413 if failure.reason in TOO_LARGE else HTTP_STATUS.get(code_of(failure).name, 500)


def failure_json(failure: Failure) -> str:
    """Return a failure as JSON text: code, reason, message, violations, time until a retry."""
    return json.dumps({**asdict(failure), "code": code_of(failure).name})


class Guard:
    """ASGI middleware: refuse requests of other sites; add headers.

    A page of another site can send requests to this machine. It is refused by `Sec-Fetch-Site` or
    `Origin`. It can also point its own name to this machine (DNS rebinding): on loopback only the
    names of this machine are answered.

    host: the host that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        names = {"localhost", "127.0.0.1", "::1", host}
        self._hosts = names if is_loopback(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        guarded = _Headers(send)
        try:
            self._check(scope["method"], Headers(scope=scope))
        except ServiceError as error:
            scope.setdefault("state", {})["reason"] = error.reason
            await _refuse(guarded, describe(error))
            return
        await self._app(scope, receive, guarded)

    def _check(self, method: str, headers: Headers) -> None:
        named = _split(f"//{headers.get('host', '')}")
        if named is None:
            raise Forbidden("HOST_UNKNOWN", "send the name of this server as the header 'Host'")
        if self._hosts is not None and named.hostname not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            raise Forbidden("HOST_UNKNOWN", f"open this page by one of the names {names}")
        if method not in SAFE_METHODS and not _is_same_site(headers):
            raise Forbidden("CROSS_SITE", "send requests from the studio's own page")


class _Headers:
    """Add the headers to an answer."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            headers.setdefault("cache-control", "no-cache")
        await self._send(message)


def _is_same_site(headers: Headers) -> bool:
    """Return True if a request comes from the page itself or from no page at all."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True
    named = _split(origin)
    return named is not None and named.netloc == headers.get("host")


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL; None if it is malformed, such as one with half a bracket."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


async def _refuse(send: Send, failure: Failure) -> None:
    kind = [(b"content-type", b"application/json")]
    start = {"type": "http.response.start", "status": http_status(failure), "headers": kind}
    await send(start)
    await send({"type": "http.response.body", "body": failure_json(failure).encode()})
