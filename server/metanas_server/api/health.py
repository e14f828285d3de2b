"""The standard health service, `grpc.health.v1.Health`.

The service of `grpcio-health-checking` loses the watchers of a service when one of them leaves, and
a watcher that does not read blocks the change of a status.
"""
# ruff: noqa: N802 (the contract names the methods)

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from metanas_server.jobs.job_table import stopping_error

Context = aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse
LIVENESS = "liveness"
"""Name of a service that is healthy as long as the server answers."""


class Health(health_pb2_grpc.HealthServicer):
    """The health of services by name; "" is the whole server. All are unhealthy at first."""

    def __init__(self, services: Iterable[str]) -> None:
        self._healthy = {LIVENESS: True} | dict.fromkeys(("", *services), False)
        self._changed = asyncio.Event()
        self._is_closed = False

    def set(self, service: str, *, healthy: bool) -> None:
        """Change the health of a service, and tell its watchers."""
        if self._healthy[service] != healthy:
            self._healthy[service] = healthy
            self._changed.set()
            self._changed = asyncio.Event()

    def stop(self) -> None:
        """Make all services unhealthy, except for `LIVENESS`: the server stops."""
        for service in self._healthy.keys() - {LIVENESS}:
            self.set(service, healthy=False)

    def close(self) -> None:
        """End all watches."""
        self._is_closed = True
        self._changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        """Return the health of a service."""
        status = self._status(request.service)
        if status == Status.SERVICE_UNKNOWN:
            names = ", ".join(repr(name) for name in sorted(self._healthy))
            await context.abort(grpc.StatusCode.NOT_FOUND, f"the services are {names}")
        return Status(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[Any]:
        """Yield the health of a service, now and after each change.

        Raises:
            Unavailable: SERVER_STOPPING.
        """
        last = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != last:
                last = status
                yield Status(status=status)
            elif self._is_closed:
                raise stopping_error()
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        healthy = self._healthy.get(service)
        if healthy is None:
            return Status.SERVICE_UNKNOWN
        return Status.SERVING if healthy else Status.NOT_SERVING
