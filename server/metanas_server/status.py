"""Convert errors to gRPC statuses: canonical code, reason and details."""

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from metanas import errors as core
from metanas.errors import MAX_VIOLATIONS
from metanas_server import errors as service
from metanas_server.resources import Failure

DOMAIN = "metanas"
# Trailers hold at most 8 KiB: the status in base64, and the message again, in which each byte
# outside of ASCII takes three.
MAX_STATUS_BYTES = 4500
MAX_MESSAGE_BYTES = 400

# The first row with a class of the error decides.
CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (core.InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (core.UnknownName, grpc.StatusCode.NOT_FOUND),
    (core.CheckpointError, grpc.StatusCode.FAILED_PRECONDITION),
    (core.Cancelled, grpc.StatusCode.CANCELLED),
    (core.Diverged, grpc.StatusCode.FAILED_PRECONDITION),
    (core.OutOfMemory, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (service.NotFound, grpc.StatusCode.NOT_FOUND),
    (service.OutOfRange, grpc.StatusCode.OUT_OF_RANGE),
    (service.NotEnded, grpc.StatusCode.FAILED_PRECONDITION),
    (service.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (service.Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (service.Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (service.QuotaReached, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (service.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (service.StoreUnavailable, grpc.StatusCode.UNAVAILABLE),
    (service.StoreError, grpc.StatusCode.DATA_LOSS),
    (service.TimedOut, grpc.StatusCode.DEADLINE_EXCEEDED),
    (core.MetanasError, grpc.StatusCode.INTERNAL),
)

# Reasons that have another code than the rest of their class.
CODES_BY_REASON = {
    "STORE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def describe(error: core.MetanasError) -> Failure:
    """Describe an error for the database and for the caller."""
    code = CODES_BY_REASON.get(error.reason) or next(
        code for kind, code in CODES if isinstance(error, kind)
    )
    retry = None
    if isinstance(error, service.Overloaded | service.Unavailable | service.StoreUnavailable):
        retry = error.retry_seconds
    return Failure(
        code=code.value[0],
        reason=error.reason,
        message=str(error),
        violations=error.violations if isinstance(error, core.InvalidInput) else (),
        omitted=error.omitted if isinstance(error, core.InvalidInput) else 0,
        retry_seconds=retry,
    )


def code_of(failure: Failure) -> grpc.StatusCode:
    """Return the status code of a failure."""
    return _BY_NUMBER[failure.code]


def to_status(failure: Failure) -> status_pb2.Status:
    """Convert a failure to `google.rpc.Status`, shortened to the size of trailers."""
    status = status_pb2.Status(code=failure.code, message=_shorten(failure.message))
    info = error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN)
    if failure.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(failure.retry_seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    request, left_out = _bad_request(failure, MAX_STATUS_BYTES - status.ByteSize())
    if left_out:
        info.metadata["violations_omitted"] = str(left_out)
    if request.field_violations:
        status.details.add().Pack(request)
    status.details.add().Pack(info)
    return status


def _bad_request(failure: Failure, room: int) -> tuple[error_details_pb2.BadRequest, int]:
    request = error_details_pb2.BadRequest()
    for violation in failure.violations[:MAX_VIOLATIONS]:
        entry = error_details_pb2.BadRequest.FieldViolation(
            field=violation.field,
            reason=violation.reason,
            description=_shorten(violation.message),
        )
        if request.ByteSize() + entry.ByteSize() > room:
            break
        request.field_violations.append(entry)
    left_out = len(failure.violations) - len(request.field_violations) + failure.omitted
    return request, left_out


def _shorten(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MAX_MESSAGE_BYTES:
        return raw.decode()
    return raw[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + "…"
