"""What every call goes through: the bearer token is checked, and errors become statuses."""

import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from grpc import aio

from metanas.errors import MetanasError
from metanas_server.errors import ServiceError, Unauthenticated
from metanas_server.resources import Failure
from metanas_server.status import code_of, describe, to_status

LOG = logging.getLogger(__name__)
OURS = "/metanas.v1."
OPEN_TO_ALL = "/grpc.health.v1.Health/"  # probes of service managers bring no token
DETAILS_KEY = "grpc-status-details-bin"

Context = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # generic in its stubs only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"


async def refuse(context: Context, failure: Failure) -> None:
    """End the call with this failure; does not return."""
    status = to_status(failure)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code_of(failure), status.message, details)


class ErrorInterceptor(aio.ServerInterceptor):
    """Turns the errors of our services into statuses with details, by the one table.

    An error that is in no table is a defect: the caller gets a number, the log gets the rest.
    """

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(OURS):
            return handler
        make, method = _parts(handler)
        wrapped = _streaming(method) if handler.response_streaming else _unary(method)
        result: Handler = make(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return result


class TokenInterceptor(aio.ServerInterceptor):
    """Lets only those in who send the token; health checks are open to all."""

    def __init__(self, token: str) -> None:
        self._wanted = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_TO_ALL):
            return handler
        sent = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
        given = sent if isinstance(sent, bytes) else sent.encode()
        if hmac.compare_digest(given, self._wanted):
            return handler
        make, _ = _parts(handler)
        turn_away = _turn_away_stream if handler.response_streaming else _turn_away
        result: Handler = make(
            turn_away,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return result


def _parts(handler: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How a handler of this shape is made, and its method."""
    shapes = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    return shapes[handler.request_streaming, handler.response_streaming]


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        try:
            return await method(request, context)
        except aio.AbortError:
            raise
        except Exception as error:
            await refuse(context, _failure(error))

    return call


def _streaming(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in method(request, context):
                yield response
        except aio.AbortError:
            raise
        except Exception as error:
            await refuse(context, _failure(error))

    return call


def _failure(error: Exception) -> Failure:
    if isinstance(error, MetanasError | ServiceError):
        return describe(error)
    number = secrets.token_hex(4)
    LOG.error("incident %s", number, exc_info=error)
    return describe(ServiceError("INTERNAL", f"a defect in the server; incident {number}"))


def _no_token() -> Failure:
    return describe(
        Unauthenticated("UNAUTHENTICATED", "send the metadata 'authorization: Bearer TOKEN'")
    )


async def _turn_away(_: Any, context: Context) -> None:
    await refuse(context, _no_token())


async def _turn_away_stream(_: Any, context: Context) -> AsyncIterator[Any]:
    await refuse(context, _no_token())
    yield  # never reached: it makes this a generator, as grpc wants it for a streaming call
