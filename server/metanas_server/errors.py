"""The error tree of the service, a part of that of the core (`metanas.errors`).

```
MetanasError
├── InvalidInput            of the core; also NO_SPEC, NO_EXAMPLE, PAGE_TOKEN, PAGE_SIZE,
│                           TIMEOUT_INVALID, DEADLINE_INVALID, PRIORITY_INVALID, REQUEST_ID_REUSED,
│                           REQUEST_ID_TOO_LONG, REQUEST_MALFORMED, REQUEST_TOO_LARGE,
│                           STATE_UNKNOWN; of queries:
│                           INPUT_NAME, INPUT_DATATYPE, INPUT_SHAPE, INPUT_CONTENTS,
│                           TOO_MANY_IMAGES, OUTPUT_UNKNOWN, CLASSIFICATION_INVALID,
│                           LOAD_PARAMETERS; of the studio: UPLOAD_MALFORMED,
│                           LABELS_MISSING
└── ServiceError            retry_seconds if a retry can succeed
    ├── NotFound            UNKNOWN_ADAPTATION, UNKNOWN_MODEL, UNKNOWN_VERSION
    ├── OutOfRange          OFFSET_OUT_OF_RANGE
    ├── NotEnded            ADAPTATION_NOT_ENDED
    ├── Unauthenticated     UNAUTHENTICATED
    ├── Forbidden           ROLE_INSUFFICIENT; of the studio: HOST_UNKNOWN, CROSS_SITE
    ├── Overloaded          QUEUE_FULL, UPLOADS_FULL, QUERIES_FULL, CALLS_FULL, CALLER_QUOTA,
    │                       CALLER_RATE, DEADLINE_TOO_SHORT: try again later
    ├── QuotaReached        PINS_FULL, SHARES_FULL, STORE_PINNED: make room first
    ├── Unavailable         SERVER_STOPPING, TOKENS_UNREADABLE: try again later
    ├── TimedOut            ADAPTATION_TIMEOUT, DEADLINE_PASSED, UPLOAD_TOO_SLOW, QUERY_TIMEOUT
    ├── AlreadyAccepted     REQUEST_KNOWN: another front has accepted it; stays inside
    ├── LeaseLost           ADAPTATION_MOVED: another front has the adaptation; stays inside
    ├── WorkerLost          WORKER_LOST: worker processes died during the adaptation
    │   └── WorkerKilled    the front killed the worker process for another reason
    ├── WorkerFailed        INTERNAL: a defect in a worker process
    ├── StoreError          ARTEFACT_LOST, ARTEFACT_DAMAGED, RECORD_DAMAGED
    │   └── StoreUnavailable  STORE_FULL, STORE_FAILED, STORE_BUSY: try again later
    └── StartError          CONFIG_INVALID, DATA_NOT_WRITABLE, DATA_IN_USE, DATABASE_MISSING,
                            DATABASE_OLDER, DATABASE_DAMAGED, DATABASE_VERSION, DATABASE_EMPTY,
                            DATABASE_UNREACHABLE, DRIVER_MISSING, BACKUP_INVALID,
                            ARTEFACTS_FOREIGN, ADDRESS_INVALID, PORT_IN_USE, LISTEN_INSECURE,
                            TLS_INVALID, TOKEN_INVALID, AUDIT_NOT_WRITABLE,
                            CHECKPOINT_MISSING, CHECKPOINT_CHANGED, DEVICE_MISSING, STUDIO_MISSING,
                            S3_MISSING, OTEL_MISSING, TRACES_INVALID, STORE_UNREACHABLE,
                            RAY_MISSING, WORKER_FAILED: the server does not start
```

A worker process sends its errors as data (`metanas_server.workers.failures`).
"""

from metanas.errors import MetanasError


class ServiceError(MetanasError):
    """Root of the errors of the service."""


class NotFound(ServiceError):
    """There is no such resource."""

    def __init__(self, kind: str, name: str, /) -> None:
        super().__init__(f"UNKNOWN_{kind.upper()}", f"there is no {kind} {name!r}")


class OutOfRange(ServiceError):
    """An offset lies outside of a file."""


class NotEnded(ServiceError):
    """The adaptation has not ended yet."""


class Unauthenticated(ServiceError):
    """The bearer token is missing or wrong."""


class Forbidden(ServiceError):
    """The role of the token does not allow the call."""


class Overloaded(ServiceError):
    """There is no room for more work now."""

    def __init__(self, reason: str, message: str, retry_seconds: float = 2.0, /) -> None:
        super().__init__(reason, message)
        self.retry_seconds = retry_seconds


class QuotaReached(ServiceError):
    """The caller, or the operator, must make room first; time alone does not help."""


class Unavailable(ServiceError):
    """The server is stopping, or cannot tell its callers apart."""

    retry_seconds = 5.0


class TimedOut(ServiceError):
    """An adaptation, an upload or a query took longer than its time limit."""


class AlreadyAccepted(ServiceError):
    """There is an adaptation with this request id."""


class LeaseLost(ServiceError):
    """Another front has taken the adaptation."""


class WorkerLost(ServiceError):
    """The worker process died during the adaptation."""


class WorkerKilled(WorkerLost):
    """The front killed the worker process; the adaptation is not the cause."""


class WorkerFailed(ServiceError):
    """A defect in a worker process, not an error of the request."""


class StoreError(ServiceError):
    """A file of the data folder or a record of the database is missing or damaged."""


class StoreUnavailable(StoreError):
    """The data folder cannot be used now."""

    retry_seconds = 5.0


class StartError(ServiceError):
    """The server cannot start."""
