"""Read and write the rows of records; a row that has changed since it was written is found."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, and_, or_

from metanas.errors import Violation
from metanas_server.errors import StoreError
from metanas_server.records.tables import (
    ADAPTATIONS,
    BETWEEN,
    MODELS,
    SHARED_WITH,
    is_sealed_time,
    read_sent,
)
from metanas_server.resources import (
    AdaptationRecord,
    Failure,
    ModelRecord,
    ProgressRecord,
    State,
)

LOG = logging.getLogger(__name__)
ADAPTATION = [
    ADAPTATIONS.c[name]
    for name in ("id", "owner", "state", "request_id", "support", "work", "ended", "body")
]
"""The columns that `read_adaptation` needs."""
MODEL = [
    *(MODELS.c[name] for name in ("number", "id", "owner", "sha256", "size", "pinned", "body")),
    SHARED_WITH.label("shares"),
]
"""The columns that `read_model` needs."""

Value = TypeVar("Value")


def write_adaptation(record: AdaptationRecord) -> dict[str, Any]:
    """Return the columns of an adaptation's row that its record decides."""
    return _adaptation_columns(record) | {"body": json.dumps(asdict(record))}


def read_adaptation(row: Any) -> AdaptationRecord:
    """Return the adaptation of a row.

    Raises:
        StoreError: RECORD_DAMAGED.
    """
    record = parse_adaptation(row.body)
    if record is not None and _agrees(row, _adaptation_columns(record)):
        return record
    raise record_damaged(f"adaptations/{row.id}")


def parse_adaptation(body: str | None) -> AdaptationRecord | None:
    """Return the adaptation of a body; None if the body is damaged."""
    return _parsed(body, _adaptation)


def _adaptation(fields: dict[str, Any]) -> AdaptationRecord:
    failure, classes = fields.pop("failure"), fields.pop("classes")
    return AdaptationRecord(
        **{**fields, "state": State(fields["state"]), "labels": tuple(fields["labels"])},
        classes=None if classes is None else tuple(classes),
        failure=None if failure is None else _failure(failure),
    )


def write_model(record: ModelRecord) -> dict[str, Any]:
    """Return the columns of a model's row that its record decides."""
    return _model_columns(record) | {"body": json.dumps(asdict(record))}


def read_model(row: Any) -> ModelRecord:
    """Return the model of a row.

    Raises:
        StoreError: RECORD_DAMAGED.
    """
    record = parse_model(row.body)
    if record is not None and _agrees(row, _model_columns(record)) and has_shares(row, record):
        return record
    raise record_damaged(f"models/{row.id}")


def has_shares(row: Any, record: ModelRecord) -> bool:
    """Return True if the shares in a row are those of its record."""
    names = [] if row.shares is None else str(row.shares).split(BETWEEN)
    return sorted(map(read_sent, names)) == list(record.shared_with)


def read_unused(row: Any) -> ModelRecord:
    """Return the model of a row with the time of its last use.

    Raises:
        StoreError: RECORD_DAMAGED, also for a damaged time.
    """
    if not is_sealed_time(row.used):
        raise record_damaged(f"models/{row.id}")
    return read_model(row)


def parse_model(body: str | None) -> ModelRecord | None:
    """Return the model of a body; None if the body is damaged."""
    return _parsed(body, _model)


def _model(fields: dict[str, Any]) -> ModelRecord:
    names = ("labels", "shared_with")
    return ModelRecord(**{**fields, **{name: tuple(fields[name]) for name in names}})


def sound(rows: Iterable[Any], read: Callable[[Any], Value]) -> Iterator[tuple[Any, Value]]:
    """Yield the rows that are as they were written, with their records; log the others."""
    for row in rows:
        try:
            yield row, read(row)
        except StoreError as error:
            LOG.warning("%s", error)


def enough(
    count: int, after: Callable[[Any, int], Sequence[Any]], read: Callable[[Any], Value]
) -> list[tuple[Any, Value]]:
    """Return the first sound rows with their records; fewer only if there are no more.

    A page that damaged rows make shorter would look like the last one.

    count: most rows.
    after: reads so many rows in order, after a row; after None from the beginning.
    """
    found, last = list[tuple[Any, Value]](), None
    while wanted := count - len(found):
        rows = after(last, wanted)
        found += sound(rows, read)
        if len(rows) < wanted:
            break
        last = rows[-1]
    return found


def later(time: Column[int], number: Column[int], row: Any) -> ColumnElement[bool]:
    """Return the condition for the rows after a row, in the order of a time and then a number."""
    at, place = getattr(row, time.name), getattr(row, number.name)
    return or_(time > at, and_(time == at, number > place))


def write_progress(entries: Iterable[ProgressRecord]) -> dict[str, str]:
    """Return the columns of an adaptation's row for its whole progress."""
    texts = [json.dumps(asdict(entry)) for entry in entries]
    return {
        "progress": f"[{', '.join(texts)}]",
        "last_progress": texts[-1] if texts else "null",
    }


def read_progress(text: str | None) -> ProgressRecord | None:
    """Return the progress of its text; None for `null` and for damaged text."""
    entries = read_all_progress(None if text is None else f"[{text}]")
    return entries[0] if entries else None


def read_all_progress(text: str | None) -> tuple[ProgressRecord, ...]:
    """Return the progress of the text of a list; nothing for damaged text."""
    return _parsed(text, _progress) or ()


def is_progress(text: str | None) -> bool:
    """Return True if the text of a list of progress is not damaged."""
    return _parsed(text, _progress) is not None


def _progress(entries: list[dict[str, Any] | None]) -> tuple[ProgressRecord, ...]:
    return tuple(ProgressRecord(**entry) for entry in entries if entry is not None)


def _parsed(text: str | None, read: Callable[[Any], Value]) -> Value | None:
    """Return the value of a JSON text; None for damaged text.

    A text that was damaged before it got a checksum, in an older release, has a right one.
    """
    try:
        return None if text is None else read(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def record_damaged(name: str) -> StoreError:
    """Make the error for a record that has changed in the database.

    Bytes of a damaged name that are no UTF-8 are escaped: no log and no answer could carry them.
    """
    shown = name.encode("utf-8", "backslashreplace").decode()
    message = f"the record of {shown} has changed on the disk; restore a backup, or run"
    return StoreError("RECORD_DAMAGED", f"{message} metanas-server repair")


def _adaptation_columns(record: AdaptationRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "owner": record.owner,
        "state": record.state,
        "request_id": record.request_id,
        "support": record.support,
        "work": record.work,
        "ended": record.end_time,
    }


def _model_columns(record: ModelRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "owner": record.owner,
        "sha256": record.sha256,
        "size": record.size_bytes,
        "pinned": int(record.pinned),
    }


def _agrees(row: Any, columns: dict[str, Any]) -> bool:
    return all(getattr(row, name) == value for name, value in columns.items())


def _failure(body: dict[str, Any]) -> Failure:
    violations = tuple(Violation(**entry) for entry in body.pop("violations"))
    return Failure(**body, violations=violations)
