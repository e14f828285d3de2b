"""Intercept each call: check caller and messages, report errors, write the audit log."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc import aio

from metanas.errors import InvalidInput, MetanasError
from metanas_server.callers.access import WITHOUT_TOKEN, Callers, address_of
from metanas_server.callers.audit import OK, AuditLog
from metanas_server.callers.open_calls import OpenCalls
from metanas_server.errors import ServiceError
from metanas_server.resources import Failure
from metanas_server.status import code_of, describe, to_status

LOG = logging.getLogger(__name__)
DETAILS_KEY = "grpc-status-details-bin"
CHANGING = "Update"  # start of the methods whose fields the audit log has
LEFT = "CANCELLED"  # the caller has left, so there is no status

Context = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic in its stubs only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


async def refuse(context: Context, failure: Failure) -> None:
    """End the call with this failure; this function always raises."""
    status = to_status(failure)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code_of(failure), status.message, details)


class CallInterceptor(aio.ServerInterceptor):
    """Check the caller and the messages of a call, and turn its errors into statuses with details.

    The caller is checked at the beginning and at each message, so a revoked token ends its calls.

    A message that is malformed, or longer than `max_request_bytes`, ends its call with
    INVALID_ARGUMENT before the service sees it. Only messages with images may be longer: those
    after the first of a stream, and those of the methods in `longer`. An unexpected error is a
    defect: the caller receives an incident number, and the log has the traceback under this number.
    """

    def __init__(
        self,
        max_request_bytes: int,
        longer: Mapping[str, int],
        callers: Callers,
        calls: OpenCalls,
        audit: AuditLog | None,
    ) -> None:
        """Set the limits.

        longer: most bytes of the messages of methods with another limit, by path of the method.
        calls: counts the calls in progress.
        """
        self._max_request_bytes = max_request_bytes
        self._longer = longer
        self._callers = callers
        self._calls = calls
        self._audit = audit

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        make, method = parts(handler)
        guard = _Guard(self._callers, self._calls, self._audit, handler_call_details.method)
        if handler.request_streaming:
            method = _with_messages(method, guard)
        wrapped = (_streaming if handler.response_streaming else _unary)(method, guard)
        most = self._longer.get(handler_call_details.method, self._max_request_bytes)
        parser = _Parser(handler.request_deserializer, most)
        result: Handler = make(
            wrapped,
            request_deserializer=parser.parse,
            response_serializer=handler.response_serializer,
        )
        return result


@dataclass(frozen=True)
class _Refused:
    """Replace a message that cannot be parsed; gRPC drops the code of an error in a parser."""

    error: InvalidInput


class _Parser:
    """Parse the messages of one call."""

    def __init__(self, deserialize: Any, max_request_bytes: int) -> None:
        self._deserialize = deserialize
        self._max_request_bytes = max_request_bytes
        self._is_first = True

    def parse(self, raw: bytes) -> Any:
        """Parse a message; the size of the first one is checked before."""
        is_first, self._is_first = self._is_first, False
        if is_first and len(raw) > self._max_request_bytes:
            text = (
                f"the request has {len(raw)} bytes; at most {self._max_request_bytes} are allowed"
            )
            return _Refused(InvalidInput.single("request", "REQUEST_TOO_LARGE", text))
        try:
            return self._deserialize(raw)
        except DecodeError:
            text = "the message is not valid protobuf; encode it by the contract of this server"
            return _Refused(InvalidInput.single("request", "REQUEST_MALFORMED", text))


def _check(request: Any) -> Any:
    if isinstance(request, _Refused):
        raise request.error
    return request


def _with_messages(method: Callable[..., Any], guard: "_Guard") -> Callable[..., Any]:
    """Return a method that checks the messages of a stream and the caller at each of them."""

    async def checked(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            guard.admit(context)
            yield _check(request)

    return lambda requests, context: method(checked(requests, context), context)


def parts(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the constructor for handlers of this shape, and the handler's method."""
    shapes = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return shapes[handler.request_streaming, handler.response_streaming]


def _unary(method: Callable[..., Any], guard: "_Guard") -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        async with guard.call(request, context) as outcome:
            outcome.response = await method(_check(request), context)
        return outcome.response

    return call


def _streaming(method: Callable[..., Any], guard: "_Guard") -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        async with guard.call(request, context):
            async for response in method(_check(request), context):
                guard.admit(context)
                yield response

    return call


@dataclass
class _Outcome:
    """The answer of a call that has one message."""

    response: Any = None


class _Guard:
    """Guard the calls of one method: their callers, their errors and the audit log."""

    def __init__(
        self, callers: Callers, calls: OpenCalls, audit: AuditLog | None, method: str
    ) -> None:
        self._callers = callers
        self._calls = calls
        self._audit = audit
        self._method = method
        self._admitted: object = None

    def admit(self, context: Context) -> None:
        """Refuse a call that its caller may not make; see `Callers.admit`."""
        self._admitted = self._callers.admit(context, self._method, self._admitted)

    @asynccontextmanager
    async def call(self, request: Any, context: Context) -> AsyncIterator[_Outcome]:
        """Run a call within: check its caller, turn its error into a status, and log it."""
        outcome, result, failure = _Outcome(), LEFT, None
        # gRPC ends a call before the stream of a caller who has left, and then crashes if asked.
        caller, address = self._name(context), context.peer()
        try:
            self.admit(context)
            with self._counted(context):
                yield outcome
            result = OK
        except aio.AbortError:
            result = "ABORTED"  # by the method itself
            raise
        except Exception as error:
            failure = failure_of(error)
            result = failure.reason
        finally:
            if self._audit is not None:
                changes = self._method.rpartition("/")[2].startswith(CHANGING)
                self._audit.write(
                    caller=caller,
                    address=address,
                    method=self._method,
                    resource=_resource(request, outcome.response),
                    result=result,
                    change=_fields(request) if result == OK and changes else None,
                )
        if failure is not None:
            await refuse(context, failure)

    def _counted(self, context: Context) -> AbstractContextManager[None]:
        if self._method.startswith(WITHOUT_TOKEN):
            return self._calls.hold_probe(address_of(context))
        return self._calls.hold(self._callers.of(context).name)

    def _name(self, context: Context) -> str:
        """Return the name of the caller; empty for a token that is missing or unknown."""
        try:
            return self._callers.of(context).name
        except ServiceError:
            return ""


def _resource(request: Any, response: Any) -> str:
    """Return the name of the resource that a call names or makes; empty for lists."""
    made = getattr(response, "adaptation", None)
    named = getattr(request, "name", "") or getattr(request, "model_name", "")
    return str(named or getattr(made, "name", ""))


def _fields(request: Any) -> dict[str, Any]:
    """Return the fields of a request but its name."""
    fields = json_format.MessageToDict(request, preserving_proto_field_name=True)
    del fields["name"]
    return fields


def failure_of(error: Exception) -> Failure:
    """Return an error as the caller sees it; the log has the traceback of a defect."""
    if isinstance(error, MetanasError):
        return describe(error)
    number = secrets.token_hex(4)
    LOG.error("incident %s", number, exc_info=error)
    return describe(ServiceError("INTERNAL", f"a defect in the server; incident {number}"))
