"""Read a multipart upload part by part, without files on disk."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from metanas.errors import InvalidInput

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_HEADERS = 4096
"""Most bytes of the headers of a part."""


@dataclass(frozen=True)
class Part:
    """One part of an upload: the name of its field and its bytes."""

    name: str
    data: bytes


async def read_parts(
    content_type: str, chunks: AsyncIterator[bytes], most_bytes: int
) -> AsyncIterator[Part]:
    """Yield the parts of an upload as they arrive.

    content_type: the header of the request; it names the boundary.
    most_bytes: of a part. A longer one ends the upload at once.

    Raises:
        InvalidInput: UPLOAD_MALFORMED, IMAGE_TOO_LARGE.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise _malformed("send multipart/form-data with a boundary")
    reader = _Reader(most_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            for part in reader.take():
                yield part
        parser.finalize()
    except MultipartParseError as error:
        raise _malformed(str(error)) from error
    if not reader.ended:
        raise _malformed("the upload stops in the middle; send it again")


class _Reader:
    """Collect the parts that the parser reports."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._parts = list[Part]()
        self._data = bytearray()
        self._header = bytearray()
        self._value = bytearray()
        self._name = ""
        self.ended = False

    def callbacks(self) -> "MultipartCallbacks":
        """Return the methods that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._end_all,
        }

    def take(self) -> list[Part]:
        """Return the parts that are complete, once."""
        parts, self._parts = self._parts, []
        return parts

    def _begin(self) -> None:
        self._data, self._name = bytearray(), ""

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._header, data[start:end], MAX_HEADERS)

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._value, data[start:end], MAX_HEADERS)

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            name = parse_options_header(bytes(self._value))[1].get(b"name", b"")
            self._name = name.decode("utf-8", "replace")
        self._header, self._value = bytearray(), bytearray()

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._data, data[start:end], self._most_bytes)

    def _end(self) -> None:
        self._parts.append(Part(self._name, bytes(self._data)))

    def _end_all(self) -> None:
        self.ended = True

    @staticmethod
    def _grow(buffer: bytearray, data: bytes, most: int) -> None:
        if len(buffer) + len(data) > most:
            text = f"a part of the upload has more than {most} bytes; send smaller images"
            raise InvalidInput.single("images", "IMAGE_TOO_LARGE", text)
        buffer += data


def _malformed(text: str) -> InvalidInput:
    return InvalidInput.single("request", "UPLOAD_MALFORMED", text)
