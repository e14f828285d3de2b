"""The HTTP endpoint of the metrics, in threads beside the event loop."""

import asyncio
import errno
import logging
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from metanas_server.errors import StartError

LOG = logging.getLogger(__name__)
IDLE_SECONDS = 10.0
POLL_SECONDS = 0.05


class _Handler(WSGIRequestHandler):
    """Answer one request without a line in the log; close a connection that stays idle."""

    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (name of the base)
        pass


class _Server(ThreadingWSGIServer):
    """Serve each connection in a thread; callers that go away or stay idle are no news."""

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            LOG.error("the metrics cannot be served", exc_info=error)


@asynccontextmanager
async def metrics_endpoint(host: str, port: int, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serve a registry over HTTP until the exit; yields the port.

    Raises:
        StartError: PORT_IN_USE, ADDRESS_INVALID.
    """
    server = _bind(host, port, registry)
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


def _bind(host: str, port: int, registry: CollectorRegistry) -> ThreadingWSGIServer:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = type("_Server", (_Server,), {"address_family": family})
        return make_server(str(address[0]), port, make_wsgi_app(registry), kind, _Handler)
    except (OSError, UnicodeError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        message = f"cannot listen on --metrics {host}:{port}: {error}; choose another address"
        raise StartError("PORT_IN_USE" if in_use else "ADDRESS_INVALID", message) from error
