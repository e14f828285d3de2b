"""Observe each call: its duration, its status code and the reason of its refusal."""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from metanas_server.api.interceptors import DETAILS_KEY, Context, Continuation, Handler, parts
from metanas_server.observation.metrics import Metrics

UNKNOWN_METHOD = "unknown"
"""The method of all calls to methods that do not exist; names of callers would be endless."""


class Observer(aio.ServerInterceptor):
    """Count the calls. Place it before the other interceptors: it sees what the caller sees."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._metrics.call(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name, 0.0)
            return None
        make, method = parts(handler)
        # The health service streams with a coroutine that writes to the context.
        wrap = self._streaming if inspect.isasyncgenfunction(method) else self._unary
        result: Handler = make(
            wrap(handler_call_details.method.lstrip("/"), method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return result

    def _unary(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            with self._observe(name, context):
                return await method(request, context)

        return call

    def _streaming(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._observe(name, context):
                async for response in method(request, context):
                    yield response

        return call

    @contextmanager
    def _observe(self, method: str, context: Context) -> Iterator[None]:
        start = time.perf_counter()
        # A caller that goes away cancels the method, without a status.
        code = grpc.StatusCode.CANCELLED.name
        in_progress = self._metrics.calls_in_progress.labels(method)
        in_progress.inc()
        try:
            yield
            code = _code(context)
        except aio.AbortError:
            code = _code(context)
            self._metrics.refusal(method, _reason(context) or code)
            raise
        finally:
            in_progress.dec()
            self._metrics.call(method, code, time.perf_counter() - start)


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
