"""The errors of the service: one tree, beside that of the core (`metanas.errors`).

```
ServiceError                reason, str(error) for people; retry_seconds where later may work
├── NotFound                UNKNOWN_ADAPTATION, UNKNOWN_MODEL
├── InvalidRequest          NO_SPEC, NO_EXAMPLE, PAGE_TOKEN, TIMEOUT_INVALID, PAGE_SIZE,
│                           REQUEST_ID_TOO_LONG, REQUEST_MALFORMED, REQUEST_TOO_LARGE,
│                           STATE_UNKNOWN: with the field that is wrong
├── OutOfRange              OFFSET_OUT_OF_RANGE
├── RequestIdReused         REQUEST_ID_REUSED
├── NotEnded                ADAPTATION_NOT_ENDED
├── Unauthenticated         UNAUTHENTICATED
├── Overloaded              QUEUE_FULL, UPLOADS_FULL, CALLER_QUOTA: try again later
├── Unavailable             SERVER_STOPPING: try again later
├── TimedOut                ADAPTATION_TIMEOUT
├── UploadTooSlow           UPLOAD_TOO_SLOW
├── WorkerLost              WORKER_LOST: the worker process died, again and again
│   └── WorkerKilled        ... or the front killed it, because another job did not stop
├── WorkerFailed            INTERNAL: a defect showed up in the worker
├── StoreError              STORE_FULL, STORE_FAILED, ARTEFACT_LOST
└── StartError              CONFIG_INVALID, DATA_NOT_WRITABLE, DATA_IN_USE, ADDRESS_INVALID,
                            PORT_IN_USE, LISTEN_INSECURE, TLS_INVALID, TOKEN_INVALID,
                            CHECKPOINT_MISSING, CHECKPOINT_CHANGED, DEVICE_MISSING,
                            WORKER_FAILED: the server
                            does not come up
```

A worker process sends its errors as data (`metanas_server.workers.failures`).
"""


class ServiceError(Exception):
    """Root of the tree. `reason` is stable and meant for programs, `str(error)` for people."""

    def __init__(self, reason: str, message: str, /) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class NotFound(ServiceError):
    """There is no such resource."""

    def __init__(self, kind: str, name: str, /) -> None:
        super().__init__(f"UNKNOWN_{kind.upper()}", f"there is no {kind} {name!r}")
        self.args = (kind, name)


class InvalidRequest(ServiceError):
    """A field of the request is wrong in a way that has nothing to do with the core."""

    def __init__(self, field: str, reason: str, message: str, /) -> None:
        super().__init__(reason, message)
        self.args = (field, reason, message)
        self.field = field


class OutOfRange(ServiceError):
    """An offset lies outside of a file."""


class RequestIdReused(ServiceError):
    """The request id belongs to a different request."""


class NotEnded(ServiceError):
    """The adaptation has not ended yet."""


class Unauthenticated(ServiceError):
    """The bearer token is missing or wrong."""


class Overloaded(ServiceError):
    """There is no room for more work now."""

    retry_seconds = 2.0


class Unavailable(ServiceError):
    """The server is on its way out."""

    retry_seconds = 5.0


class TimedOut(ServiceError):
    """The adaptation took longer than it was given."""


class UploadTooSlow(ServiceError):
    """An upload takes longer than its deadlines allow."""


class WorkerLost(ServiceError):
    """The worker process died while it was at it."""


class WorkerKilled(WorkerLost):
    """The front has killed the worker process, because another of its jobs did not stop."""


class WorkerFailed(ServiceError):
    """The worker met an error that is nobody's input: a defect."""


class StoreError(ServiceError):
    """The data folder does not take, or no longer has, what it should."""


class StartError(ServiceError):
    """The server cannot start."""
