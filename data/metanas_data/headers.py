"""Sizes of images by the headers of their files, in little time whatever the file contains."""

import struct

FULL_PIXELS = 4_194_304
"""Most pixels of an image that is not reduced. Others are reduced by 2, 4 or 8 until they fit."""
JPEG_SEGMENTS = 64
"""Segments of a JPEG before its size that are read; photos have up to twenty."""


def peek(data: bytes) -> tuple[int, int] | None:
    """Return the pixels of a file while it is decoded and after, as its header declares them.

    None if the header cannot be read. A JPEG whose size does not come early is counted as the
    largest one that decoding can make.
    """
    if data.startswith(b"\xff\xd8\xff"):
        size = _jpeg_size(data)
        reduced = FULL_PIXELS if size is None else _reduced(*size)
        return reduced, reduced
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        size = struct.unpack(">II", data[16:24])
    elif data.startswith(b"BM") and len(data) >= 26:
        wide = int.from_bytes(data[14:18], "little") > 12  # else the header of OS/2
        width, height = struct.unpack("<ii" if wide else "<HH", data[18 : 26 if wide else 22])
        size = abs(width), abs(height)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        size = webp_size(data)
    return None if size is None else (size[0] * size[1], _reduced(*size))


def reduction(width: int, height: int) -> int:
    """Return the divisor of both sides for an image of this size."""
    for factor in (1, 2, 4):
        if width * height <= FULL_PIXELS * factor**2:
            return factor
    return 8


def _reduced(width: int, height: int) -> int:
    return width * height // reduction(width, height) ** 2


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the size in the frame header (ITU-T T.81, B.2.2); None if it does not come early."""
    position = 2
    for _ in range(JPEG_SEGMENTS):
        segment = data[position : position + 9]
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        if 0xC0 <= segment[1] <= 0xCF and segment[1] not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", segment[5:9])
            return width, height
        position += 2 + int.from_bytes(segment[2:4], "big")
    return None


def webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of the canvas, which libwebp allocates when it opens a file."""
    if len(data) < 30:
        return 0, 0
    if data[12:16] == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    return width, height
