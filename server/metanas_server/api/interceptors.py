"""Intercept each call: check the bearer token, parse messages, turn errors into statuses."""

import hashlib
import hmac
import inspect
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from metanas.errors import InvalidInput, MetanasError
from metanas_server.errors import ServiceError, Unauthenticated
from metanas_server.resources import Failure
from metanas_server.status import code_of, describe, to_status

LOG = logging.getLogger(__name__)
WITHOUT_TOKEN = "/grpc.health.v1.Health/"  # probes of service managers send no token
DETAILS_KEY = "grpc-status-details-bin"

Context = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic in its stubs only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


async def refuse(context: Context, failure: Failure) -> None:
    """End the call with this failure; this function always raises."""
    status = to_status(failure)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code_of(failure), status.message, details)


def caller_of(context: Context, *, by_token: bool) -> str:
    """Identify the caller of a call, for its quotas and for the log.

    by_token: the server requires tokens. Then each token is a caller, else each address.
    """
    if not by_token:
        return context.peer().rpartition(":")[0]
    digest = hashlib.sha256(_authorization(context.invocation_metadata())).hexdigest()
    return f"token {digest[:8]}"


class CallInterceptor(aio.ServerInterceptor):
    """Check the token and the messages of a call, and turn its errors into statuses with details.

    A message that is malformed, or longer than `max_request_bytes`, ends its call with
    INVALID_ARGUMENT before the service sees it. Only the messages after the first of a stream,
    which carry images, may be longer. An unexpected error is a defect: the caller receives an
    incident number, and the log has the traceback under this number.
    """

    def __init__(self, max_request_bytes: int, tokens: Sequence[str]) -> None:
        """Require one of these tokens, except from health checks; without tokens, require none."""
        self._max_request_bytes = max_request_bytes
        self._expected = [f"Bearer {token}".encode() for token in tokens]

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        make, method = _parts(handler)
        check: Callable[[Any], Any] = _check_each if handler.request_streaming else _check
        if not self._is_authorized(handler_call_details):
            check = _refuse_token
        # The health service streams with a coroutine that writes to the context.
        yields = handler.response_streaming and not inspect.iscoroutinefunction(method)
        wrapped = (_streaming if yields else _unary)(method, check)
        parser = _Parser(handler.request_deserializer, self._max_request_bytes)
        result: Handler = make(
            wrapped,
            request_deserializer=parser.parse,
            response_serializer=handler.response_serializer,
        )
        return result

    def _is_authorized(self, call: grpc.HandlerCallDetails) -> bool:
        if not self._expected or call.method.startswith(WITHOUT_TOKEN):
            return True
        value = _authorization(call.invocation_metadata)
        return sum(hmac.compare_digest(value, each) for each in self._expected) > 0


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


async def _check_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _check(request)


def _refuse_token(_: Any) -> Any:
    text = "send the metadata 'authorization: Bearer TOKEN'"
    raise Unauthenticated("UNAUTHENTICATED", text)


def _authorization(metadata: Any) -> bytes:
    value = dict(metadata or ()).get("authorization", "")
    return value if isinstance(value, bytes) else value.encode()


def _parts(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the constructor for handlers of this shape, and the handler's method."""
    shapes = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return shapes[handler.request_streaming, handler.response_streaming]


def _unary(method: Callable[..., Any], check: Callable[[Any], Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await method(check(request), context)
        except aio.AbortError:
            raise
        except Exception as error:
            await refuse(context, _failure(error))

    return call


def _streaming(method: Callable[..., Any], check: Callable[[Any], Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in method(check(request), context):
                yield response
        except aio.AbortError:
            raise
        except Exception as error:
            await refuse(context, _failure(error))

    return call


def _failure(error: Exception) -> Failure:
    if isinstance(error, MetanasError):
        return describe(error)
    number = secrets.token_hex(4)
    LOG.error("incident %s", number, exc_info=error)
    return describe(ServiceError("INTERNAL", f"a defect in the server; incident {number}"))
