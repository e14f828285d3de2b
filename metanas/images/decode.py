"""Images as they come in (encoded files, raw arrays) made into (H, W, C) arrays of 1 or 3 channels.

Nothing global of Pillow is touched and no state is kept: every function may run in many threads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from metanas.errors import InvalidInput
from metanas.spec.examples import Limits

ORIENTATION = 0x0112  # the EXIF tag; Exif 2.32, 4.6.4 A

TRANSPOSE: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, channels: int, limits: Limits) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, WebP or BMP file; of an animation, its first frame.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey is rounded to 8
    bits, colour becomes grey by ITU-R 601-2 luma (Pillow's mode "L"). Sizes are checked in the
    header, before anything is decoded.

    data: the bytes of the file.
    channels: 1 or 3.

    Returns:
        uint8 (H, W, channels).

    Raises:
        InvalidInput: field `image`; IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_TOO_SMALL,
            IMAGE_TOO_MANY_PIXELS, IMAGE_TRUNCATED or IMAGE_UNREADABLE.
    """
    _check_bytes(len(data), limits)
    fmt = _format(data)
    declared = fmt.size(data)
    if declared is not None:
        _check_size(*declared, limits)
    try:
        # Not Image.open: it warns about sizes above a global limit, where ours is an argument.
        image = fmt.open(BytesIO(data))
        # Pillow may have gone by another header than `size` did: JPEG and PNG can hold several.
        _check_size(*image.size, limits)
        image.load()
        return _pixels(_upright(image), channels)
    except InvalidInput:
        raise
    except Exception as error:  # Pillow has no closed set of errors for damaged files
        if fmt.incomplete(data):
            message = f"the {fmt.name} file ends too early; send all of it"
            raise _bad("IMAGE_TRUNCATED", message) from error
        detail = str(error) or type(error).__name__
        raise _bad("IMAGE_UNREADABLE", f"the {fmt.name} file is damaged: {detail}") from error


def from_array(
    array: NDArray[Any], *, channels: int, limits: Limits
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Check a raw image and give it the wanted number of channels.

    array: uint8, or float32 within 0..1; (H, W, 1), (H, W, 3) or (H, W).
    channels: 1 or 3. Colour becomes grey by ITU-R 601-2 luma, grey is repeated.

    Returns:
        (H, W, channels) of the same type.

    Raises:
        InvalidInput: field `image`; TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CHANNELS, TENSOR_NOT_FINITE,
            TENSOR_RANGE, IMAGE_TOO_LARGE, IMAGE_TOO_SMALL or IMAGE_TOO_MANY_PIXELS.
    """
    if array.dtype not in (np.uint8, np.float32):
        raise _bad(
            "TENSOR_DTYPE", f"the array is {array.dtype}; send uint8, or float32 within 0..1"
        )
    if array.ndim not in (2, 3):
        raise _bad(
            "TENSOR_SHAPE", f"the array has shape {array.shape}; one image is (height, width, 3)"
        )
    raw = array[:, :, None] if array.ndim == 2 else array
    if raw.shape[2] not in (1, 3):
        raise _bad("TENSOR_CHANNELS", _channels_message(raw.shape))
    _check_bytes(raw.nbytes, limits)
    _check_size(raw.shape[1], raw.shape[0], limits)
    if raw.dtype == np.float32:
        _check_values(raw)
    return np.ascontiguousarray(_with_channels(raw, channels))


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_image_bytes:
        raise _bad("IMAGE_TOO_LARGE", f"{size} bytes; at most {limits.max_image_bytes} are allowed")


def _check_size(width: int, height: int, limits: Limits) -> None:
    if min(width, height) < limits.min_side:
        message = f"{width}×{height} pixels; each side needs at least {limits.min_side}"
        raise _bad("IMAGE_TOO_SMALL", message)
    if width * height > limits.max_pixels:
        message = f"{width}×{height} pixels; at most {limits.max_pixels} are allowed"
        raise _bad("IMAGE_TOO_MANY_PIXELS", message)


def _check_values(raw: NDArray[np.float32]) -> None:
    if not np.isfinite(raw).all():
        raise _bad("TENSOR_NOT_FINITE", "the array holds NaN or infinite values")
    low, high = float(raw.min()), float(raw.max())
    if low < 0 or high > 1:
        raise _bad("TENSOR_RANGE", f"values from {low:g} to {high:g}; float images go from 0 to 1")


def _channels_message(shape: tuple[int, ...]) -> str:
    hint = "; channels come last, so transpose it" if shape[0] in (1, 3) else ""
    return f"the array has shape {shape}, so {shape[2]} channels; send 1 or 3{hint}"


def _with_channels(raw: NDArray[Any], channels: int) -> NDArray[Any]:
    if raw.shape[2] == channels:
        return raw
    if channels == 3:
        return np.repeat(raw, 3, axis=2)
    if raw.dtype == np.uint8:  # the integer arithmetic of Pillow's "L", so both ways in agree
        weights = np.array([19595, 38470, 7471], dtype=np.uint32)
        grey = ((raw.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)
    else:
        grey = np.minimum(raw @ np.array([0.299, 0.587, 0.114], dtype=np.float32), np.float32(1))
    return grey[:, :, None]


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata does not make the pixels unusable
        return image
    method = TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    array = np.array(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    return array.reshape(image.height, image.width, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey, which `Image.convert` would clip at 255, rounded to 8 bits."""
    wide = np.asarray(image).astype(np.uint32)
    narrow = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        narrow[wide == transparent] = 255
    return Image.fromarray(narrow)


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A file format: what marks it, how large it says it is, how it is opened, when it is cut."""

    name: str
    matches: Callable[[bytes], bool]
    size: Callable[[bytes], tuple[int, int] | None]  # (width, height); None when it cannot be told
    open: Callable[[BytesIO], Image.Image]
    incomplete: Callable[[bytes], bool]


def _png_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 26:
        return None
    if int.from_bytes(data[14:18], "little") == 12:  # BITMAPCOREHEADER of OS/2
        return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
    # a negative height says that the rows go from top to bottom
    height = int.from_bytes(data[22:26], "little", signed=True)
    return int.from_bytes(data[18:22], "little"), abs(height)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF, not DHT, JPG, DAC
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas: libwebp allocates it when a file is opened, so this check has to come first."""
    if len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        width, height = data[24:27], data[27:30]
        return 1 + int.from_bytes(width, "little"), 1 + int.from_bytes(height, "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = data[26:28], data[28:30]
    return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF


FORMATS = (
    _Format(
        name="PNG",
        matches=lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
        size=_png_size,
        open=PngImagePlugin.PngImageFile,
        incomplete=lambda data: b"IEND" not in data,
    ),
    _Format(
        name="JPEG",
        matches=lambda data: data.startswith(b"\xff\xd8\xff"),
        size=_jpeg_size,
        open=JpegImagePlugin.JpegImageFile,
        incomplete=lambda data: not data.rstrip(b"\0").endswith(b"\xff\xd9"),
    ),
    _Format(
        name="WebP",
        matches=lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
        size=_webp_size,
        open=WebPImagePlugin.WebPImageFile,
        incomplete=lambda data: int.from_bytes(data[4:8], "little") + 8 > len(data),
    ),
    _Format(
        name="BMP",
        matches=lambda data: data.startswith(b"BM"),
        size=_bmp_size,
        open=BmpImagePlugin.BmpImageFile,
        incomplete=lambda data: int.from_bytes(data[2:6], "little") > len(data),
    ),
)


def _format(data: bytes) -> _Format:
    for fmt in FORMATS:
        if fmt.matches(data):
            return fmt
    if not data:
        raise _bad("IMAGE_UNREADABLE", "the image is empty (0 bytes)")
    raise _bad("IMAGE_FORMAT", "not an image that can be read; send PNG, JPEG, WebP or BMP")


def _bad(reason: str, message: str) -> InvalidInput:
    return InvalidInput.single("image", reason, message)
