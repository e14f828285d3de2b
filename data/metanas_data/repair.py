"""Repairs of image files with complete pixels: damaged metadata of PNG, a missing end of JPEG."""

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = 8
PNG_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""The chunks that determine the pixels."""
JPEG_END = b"\xff\xd9"
FILLER = b"\xe9\x6c" * 256
"""Bytes that change the pixels of a JPEG only if its data ends too early."""
PROGRESSIVE = b"\xff\xc2"


def is_cut_png(data: bytes) -> bool:
    """Return True if a PNG lacks its end."""
    return b"IEND" not in data


def is_cut_jpeg(data: bytes) -> bool:
    """Return True if a JPEG lacks its end marker."""
    return not data.rstrip(b"\0").endswith(JPEG_END)


def pixels_of_png(data: bytes) -> tuple[bytes, ...]:
    """Return the PNG without its metadata, except for EXIF data with a correct checksum."""
    chunks = (chunk for kind, chunk in _chunks(data) if kind in PNG_PIXELS or _is_valid_exif(chunk))
    return (data[:PNG_SIGNATURE] + b"".join(chunks),)


def complete_jpegs(data: bytes) -> tuple[bytes, ...]:
    """Return two files with an end marker, whose pixels agree if only the marker was missing.

    A progressive JPEG is not completed, because a scan may be missing as well.
    """
    if not is_cut_jpeg(data) or PROGRESSIVE in data:
        return ()
    return data + JPEG_END, data + FILLER + JPEG_END


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each chunk of a PNG: its kind, and its bytes with length and checksum."""
    at = PNG_SIGNATURE
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def _is_valid_exif(chunk: bytes) -> bool:
    return chunk[4:8] == b"eXIf" and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
