"""Observe each request: its route, its status, its duration and the reason of its refusal."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from metanas_server.observation.calls import REQUEST_ID_KEY, Call, CallObserver
from metanas_server.observation.spans import TRACE_KEY

LEFT = 499
"""Status of a request whose caller has left before the answer; the status is that of nginx."""
UNKNOWN_ROUTE = "unknown"
"""The route of all requests without one; paths of callers would be endless."""


class Observer:
    """ASGI middleware: count, log and trace the requests. Place it first.

    The routes leave the caller and the reason of a refusal in the state of the request.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], observer: CallObserver) -> None:
        """Observe the requests to an application with these routes."""
        self._app = app
        self._routes = tuple(routes)
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers, route = Headers(scope=scope), self._route(scope)
        call = Call(
            method=route,
            sent_id=headers.get(REQUEST_ID_KEY, ""),
            sent_trace=headers.get(TRACE_KEY, ""),
            attributes={"http.route": route.rpartition(" ")[2]},
            code=str(LEFT),
            code_key="http.response.status_code",
        )

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.code = str(message["status"])
            await send(message)

        state = scope.setdefault("state", {})
        with self._observer.observe(call):
            try:
                await self._app(scope, receive, noted)
            finally:
                caller = state.get("caller")
                call.reason = state.get("reason", "")
                call.caller = address_of(scope) if caller is None else caller.name
                call.token = "" if caller is None else caller.owner

    def _route(self, scope: Scope) -> str:
        """Return the method and the template of the path, such as "GET /api/models/{id}"."""
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                if isinstance(route, Route):
                    return f"{scope['method']} {route.path}"
                if isinstance(route, Mount):
                    return route.path
        return UNKNOWN_ROUTE


def address_of(scope: Scope) -> str:
    """Return the address of a caller, in the form of gRPC: it has the same quotas there."""
    host = (scope["client"] or ("", 0))[0]
    return f"ipv6:[{host}]" if ":" in host else f"ipv4:{host}"
