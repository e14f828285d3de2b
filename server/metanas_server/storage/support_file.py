"""The file of a support set, which the front writes and a worker process reads.

Each example is a line of JSON, {"label", "kind", "shape", "size"}, and then `size` bytes: an
encoded image as it was received, or the numbers of an array, row-major and little-endian.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from metanas.spec.examples import Example

ENCODED = "encoded"
ARRAYS: dict[str, np.dtype[Any]] = {"uint8": np.dtype("<u1"), "float32": np.dtype("<f4")}


def pack(examples: Iterable[Example]) -> list[bytes | memoryview]:
    """Return the bytes of a support set in parts; the images are views, not copies.

    Equal support sets give equal bytes.
    """
    parts = list[bytes | memoryview]()
    for example in examples:
        image = example.image
        if isinstance(image, bytes):
            kind, shape = ENCODED, list[int]()
            data: bytes | memoryview = image
        else:
            kind, shape = image.dtype.name, list(image.shape)
            data = np.ascontiguousarray(image, ARRAYS[kind]).reshape(-1).view(np.uint8).data
        header = {"label": example.label, "kind": kind, "shape": shape, "size": len(data)}
        parts += (json.dumps(header).encode() + b"\n", data)
    return parts


def unpack(data: bytes) -> tuple[Example, ...]:
    """Return the support set of a file; its arrays are read-only views into `data`."""
    examples, position = list[Example](), 0
    while position < len(data):
        end = data.index(b"\n", position)
        header = json.loads(data[position:end])
        position = end + 1 + header["size"]
        examples.append(_example(header, memoryview(data)[end + 1 : position]))
    return tuple(examples)


def labels_of(examples: Sequence[Example], classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes in the order of the outputs: as declared, else as they first appear."""
    return tuple(classes or dict.fromkeys(example.label for example in examples))


def _example(header: dict[str, object], data: memoryview) -> Example:
    label, kind, shape = header["label"], header["kind"], header["shape"]
    assert isinstance(label, str)
    assert isinstance(kind, str)
    assert isinstance(shape, list)
    if kind == ENCODED:
        return Example(label, bytes(data))
    return Example(label, np.frombuffer(data, dtype=ARRAYS[kind]).reshape(shape))
