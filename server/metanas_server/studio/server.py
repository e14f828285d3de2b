"""Serve the page with uvicorn, in the event loop of the server."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from metanas_server.config import ServerConfig
from metanas_server.observation.calls import CallObserver
from metanas_server.sockets import bind
from metanas_server.studio.guard import Guard
from metanas_server.studio.observer import Observer

CLOSE_SECONDS = 2
"""Seconds that open connections get to end when the server stops."""
POLL_SECONDS = 0.01


class StudioServer:
    """The HTTP server of the page."""

    def __init__(self, config: ServerConfig, app: Starlette, observer: CallObserver) -> None:
        """Prepare to answer the requests to an application, and to observe them."""
        self._host, self._port = config.studio_address or ("127.0.0.1", 0)
        self._server = _Uvicorn(
            uvicorn.Config(
                Observer(Guard(app, self._host), app.routes, observer),
                access_log=False,
                interface="asgi3",
                lifespan="off",
                log_config=None,
                log_level="warning",
                proxy_headers=False,
                server_header=False,
                ssl_ca_certs=_text(config.tls_client_ca),
                ssl_cert_reqs=ssl.CERT_NONE if config.tls_client_ca is None else ssl.CERT_REQUIRED,
                ssl_certfile=_text(config.tls_cert),
                ssl_keyfile=_text(config.tls_key),
                timeout_graceful_shutdown=CLOSE_SECONDS,
                ws="none",
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Answer requests; return the port.

        Raises:
            StartError: PORT_IN_USE, ADDRESS_INVALID.
        """
        bound = bind("studio", self._host, self._port)
        port: int = bound.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[bound]))
        while not (self._server.started or self._serving.done()):
            await asyncio.sleep(POLL_SECONDS)
        if self._serving.done():
            self._serving.result()
        return port

    async def stop(self) -> None:
        """End open connections and answer no more."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Uvicorn(uvicorn.Server):
    """Leave the signals to the command: uvicorn takes over those of its process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _text(path: object | None) -> str | None:
    return None if path is None else str(path)
