"""Observe each call: its duration, its status code and the reason of its refusal.

A call has a request id: that of its metadata `x-request-id`, or else a new one.
"""

import inspect
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from metanas_server.api.interceptors import DETAILS_KEY, Context, Continuation, Handler, parts
from metanas_server.callers.access import WITHOUT_TOKEN, Callers
from metanas_server.errors import ServiceError
from metanas_server.observation.logs import REQUEST_ID
from metanas_server.observation.metrics import Metrics

LOG = logging.getLogger("metanas_server.access")
REQUEST_ID_KEY = "x-request-id"
REQUEST_ID_FORM = re.compile(r"[!-~]{1,128}")
UNKNOWN_METHOD = "unknown"
"""The method of all calls to methods that do not exist; names of callers would be endless."""


class Observer(aio.ServerInterceptor):
    """Count and log the calls. Place it first: it then sees what the caller sees."""

    def __init__(self, metrics: Metrics, log_for: Callers | None) -> None:
        """Count calls in these metrics; also log them, with the names of these callers."""
        self._metrics = metrics
        self._callers = log_for

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
            wrap(handler_call_details.method, method),
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
        REQUEST_ID.set(_request_id(context))  # of this task, which ends with the call
        name, reason, start = method.lstrip("/"), "", time.perf_counter()
        # A caller that goes away cancels the method, without a status.
        code = grpc.StatusCode.CANCELLED.name
        in_progress = self._metrics.calls_in_progress.labels(name)
        in_progress.inc()
        try:
            yield
            code = _code(context)
        except aio.AbortError:
            code = _code(context)
            reason = _reason(context) or code
            self._metrics.refusal(name, reason)
            raise
        finally:
            in_progress.dec()
            seconds = time.perf_counter() - start
            self._metrics.call(name, code, seconds)
            if self._callers is not None and not method.startswith(WITHOUT_TOKEN):
                caller = _caller(self._callers, context)
                _log(method=name, code=code, reason=reason, seconds=seconds, caller=caller)


def _log(*, method: str, code: str, reason: str, seconds: float, caller: str) -> None:
    text = f"{method} {code}{reason and f' ({reason})'} {seconds:.3f} s, {caller}"
    fields = {"method": method, "code": code, "seconds": round(seconds, 6), "caller": caller}
    fields |= {"reason": reason} if reason else {}
    LOG.info("%s, request %s", text, REQUEST_ID.get(), extra=fields)


def _request_id(context: Context) -> str:
    sent = str(dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY, ""))
    return sent if REQUEST_ID_FORM.fullmatch(sent) else secrets.token_hex(8)


def _caller(callers: Callers, context: Context) -> str:
    """Return the name of the caller, or its address if it has no token."""
    try:
        return callers.of(context).name
    except ServiceError:
        return str(context.peer())


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
