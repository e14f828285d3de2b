"""Check of the bytes of an ONNX file before ONNX Runtime opens it.

A file may name other files that hold its weights, and ONNX Runtime would read them relative to the
working directory. The check walks through the fields of the protobuf message (onnx.proto3) and
skips the weights. It needs no protobuf library.
"""

from collections.abc import Iterator
from typing import NamedTuple

MOST_FIELDS = 1_000_000
"""Most fields of a file; a model of MetaNAS has some thousands."""
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
LONGEST_VARINT = 70  # bits


class Field(NamedTuple):
    """Field of a message: its number and its value, or the place of its bytes."""

    number: int
    value: int
    start: int
    end: int


MESSAGES = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
}
"""Message -> number of a field -> message in it."""
FOREIGN = {
    ("model", 20): "training information",
    ("model", 25): "functions",
    ("graph", 15): "sparse weights",
    ("attribute", 6): "nested graphs",
    ("attribute", 11): "nested graphs",
    ("attribute", 22): "sparse weights",
    ("attribute", 23): "sparse weights",
    ("tensor", 13): "weights in other files",
}
"""Fields that no model of MetaNAS has."""
LOCATION, DOMAIN = ("tensor", 14), ("node", 7)


def check_bytes(data: bytes) -> None:
    """Check that a file needs no other file and has operators of the standard only.

    Raises:
        ValueError: it does not, or it is no ONNX file.
    """
    count, waiting = 0, [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        for field in _fields(data, start, end):
            count += 1
            if count > MOST_FIELDS:
                raise ValueError(f"it has more than {MOST_FIELDS} fields")
            key = (message, field.number)
            if key in FOREIGN or (key == LOCATION and field.value):
                raise ValueError(f"it has {FOREIGN.get(key, 'weights in other files')}")
            if key == DOMAIN and data[field.start : field.end] not in (b"", b"ai.onnx"):
                raise ValueError("it has custom operators")
            inner = MESSAGES.get(message, {}).get(field.number)
            if inner is not None:
                waiting.append((inner, field.start, field.end))


def _fields(data: bytes, position: int, end: int) -> Iterator[Field]:
    while position < end:
        tag, position = _varint(data, position, end)
        value, kind, start = 0, tag & 7, position
        if kind == VARINT:
            value, position = _varint(data, position, end)
        elif kind == BYTES:
            length, start = _varint(data, position, end)
            position = start + length
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            position += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError("it is no ONNX file")
        if position > end:
            raise ValueError("it ends too early")
        yield Field(tag >> 3, value, start, position)


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return a number, and the position after it."""
    number = 0
    for shift in range(0, LONGEST_VARINT, 7):
        if position >= end:
            raise ValueError("it ends too early")
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise ValueError("it is no ONNX file")
