"""Read and write the bodies of rows: JSON of records."""

import json
from dataclasses import asdict
from typing import Any

from metanas.errors import Violation
from metanas_server.resources import (
    AdaptationRecord,
    Failure,
    ModelRecord,
    ProgressRecord,
    State,
)


def dump(record: AdaptationRecord) -> str:
    """Return the body of the row of an adaptation."""
    return json.dumps(asdict(record))


def read_adaptation(body: dict[str, Any]) -> AdaptationRecord:
    """Return the adaptation of a body."""
    failure, classes = body.pop("failure"), body.pop("classes")
    return AdaptationRecord(
        **{**body, "state": State(body["state"]), "labels": tuple(body["labels"])},
        classes=None if classes is None else tuple(classes),
        failure=None if failure is None else _failure(failure),
    )


def _failure(body: dict[str, Any]) -> Failure:
    violations = tuple(Violation(**entry) for entry in body.pop("violations"))
    return Failure(**body, violations=violations)


def read_model(body: dict[str, Any]) -> ModelRecord:
    """Return the model of a body."""
    return ModelRecord(**{**body, "labels": tuple(body["labels"])})


def read_progress(text: str) -> ProgressRecord | None:
    """Return the progress of its text; None for `null`."""
    entry = json.loads(text)
    return None if entry is None else ProgressRecord(**entry)
