"""Observe each call: its duration, its status code and the reason of its refusal."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from metanas_server.api.interceptors import DETAILS_KEY, Context, Continuation, Handler, parts
from metanas_server.callers.access import WITHOUT_TOKEN, Callers
from metanas_server.errors import ServiceError
from metanas_server.observation.calls import REQUEST_ID_KEY, Call, CallObserver
from metanas_server.observation.metrics import Metrics
from metanas_server.observation.spans import TRACE_KEY

UNKNOWN_METHOD = "unknown"
"""The method of all calls to methods that do not exist; names of callers would be endless."""


class KnownPeer:
    """The context of a call, whose caller stays known when its connection has ended.

    gRPC keeps the address in the memory of the connection. It reads freed memory, and the process
    dies, if the address is asked for later (grpc/grpc#29069).
    """

    def __init__(self, context: Context) -> None:
        """Read the address and the certificate at the beginning of the call."""
        self._context = context
        self._peer, self._certificate = context.peer(), context.auth_context()

    def peer(self) -> str:
        return str(self._peer)

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._certificate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Observer(aio.ServerInterceptor):
    """Count, log and trace the calls. Place it first: it then sees what the caller sees.

    The methods of the services get a `KnownPeer` as their context.
    """

    def __init__(self, observer: CallObserver, metrics: Metrics, callers: Callers) -> None:
        self._observer = observer
        self._metrics = metrics
        self._callers = callers

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._metrics.rpcs.finished(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name, 0.0)
            return None
        make, method = parts(handler)
        # The health service streams with a coroutine that writes to the context.
        wrap = self._streaming if inspect.isasyncgenfunction(method) else self._unary
        result: Handler = make(
            wrap(handler_call_details.method, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return result

    def _unary(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            known: Any = KnownPeer(context)
            with self._observe(name, known):
                return await method(request, known)

        return call

    def _streaming(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            known: Any = KnownPeer(context)
            with self._observe(name, known):
                async for response in method(request, known):
                    yield response

        return call

    @contextmanager
    def _observe(self, method: str, context: Context) -> Iterator[None]:
        # A caller that goes away cancels the method, without a status.
        left = grpc.StatusCode.CANCELLED.name
        sent, name = dict(context.invocation_metadata() or ()), method.lstrip("/")
        call = Call(
            method=name,
            sent_id=str(sent.get(REQUEST_ID_KEY, "")),
            sent_trace=str(sent.get(TRACE_KEY, "")),
            attributes={"rpc.system.name": "grpc", "rpc.method": name},
            code=left,
            code_key="rpc.response.status_code",
            is_probe=method.startswith(WITHOUT_TOKEN),
        )
        call.caller, call.token = self._names(context)
        with self._observer.observe(call):
            try:
                yield
                call.code = _code(context)
            except aio.AbortError:
                call.code = _code(context)
                call.reason = _reason(context) or call.code
                raise

    def _names(self, context: Context) -> tuple[str, str]:
        """Return the name of the caller, or its address if it has no token, and its token's."""
        try:
            caller = self._callers.of(context)
        except ServiceError:
            return str(context.peer()), ""
        return caller.name, caller.owner


def _code(context: Context) -> str:
    """Return the name of a call's status code."""
    code: grpc.StatusCode | None = context.code()  # None until the method has set one
    return "OK" if code is None else str(code.name)


def _reason(context: Context) -> str:
    """Return the reason among the details of a call's error; empty without details."""
    details = dict(context.trailing_metadata() or ()).get(DETAILS_KEY, b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""
