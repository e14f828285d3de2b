"""Decoder of image files: PNG, JPEG, WebP and BMP to uint8 arrays.

The decoder has no global state and changes none of Pillow, so it may run in many threads.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from metanas_data.errors import ImageError
from metanas_data.headers import FULL_PIXELS as FULL_PIXELS
from metanas_data.headers import reduction, webp_size
from metanas_data.kinds import foreign_kind
from metanas_data.limits import ImageLimits
from metanas_data.repair import complete_jpegs, is_cut_jpeg, is_cut_png, pixels_of_png

ORIENTATION = 0x0112
"""The EXIF tag; Exif 2.32, 4.6.4 A."""
LIGHT = 224
"""Least mean luma of the opaque pixels of a light drawing."""

log = logging.getLogger(__name__)

TRANSPOSE: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
KEY_SCALE: Mapping[str, int] = {"1": 255, "L;2": 85, "L;4": 17}
"""Raw mode of a grey PNG below 8 bits -> the factor from its samples to 8 bits."""


def decode(
    data: bytes, *, channels: int, limits: ImageLimits, name: str = "an image"
) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, WebP or BMP file, or the first frame of an animation.

    - EXIF orientation is applied.
    - Transparency is composited on white, and on black if the opaque pixels are light (`LIGHT`),
      because a white drawing would vanish on white. This depends on the image alone, so queries and
      support set are decoded alike. A BMP whose alpha channel is 0 everywhere is opaque.
    - 16-bit grey is rounded to 8 bits.
    - Colour becomes grey by ITU-R 601-2 luma (Pillow's mode "L").
    - An image of more than `FULL_PIXELS` is reduced by 2, 4 or 8: a JPEG while it is decoded, the
      other formats by a box filter.
    - Damaged or very large metadata of a PNG and a missing end marker of a JPEG are ignored.

    The size is checked in the header, before any pixel is decoded.

    Args:
        data: the bytes of the file.
        channels: 1 or 3.
        limits: the limits of the image.
        name: the file or the place of the image, for a warning in the log.

    Returns:
        uint8 (H, W, channels).

    Raises:
        ImageError: IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_TOO_SMALL, IMAGE_TOO_MANY_PIXELS,
            IMAGE_TRUNCATED or IMAGE_UNREADABLE.
    """
    limits.check_bytes(len(data))
    fmt = _format(data)
    try:
        image = _decode(fmt, data, channels, limits)
    except ImageError:
        raise
    except Exception as error:  # Pillow has no closed set of errors for damaged files
        repaired = _decode_repaired(fmt, data, channels, limits)
        if repaired is not None:
            return repaired
        if fmt.is_cut(data):
            message = f"the {fmt.name} file ends too early; send all of it"
            raise ImageError("IMAGE_TRUNCATED", message) from error
        detail = str(error) or type(error).__name__
        if isinstance(error, SyntaxError):  # Pillow's "not identified by this driver"
            detail = "its header cannot be read, or has a side of 0"
        message = f"the {fmt.name} file is damaged: {detail}"
        raise ImageError("IMAGE_UNREADABLE", message) from error
    if fmt.name == "BMP":
        _warn_of_lost_half(data, name)
    return image


@dataclass(frozen=True, kw_only=True)
class _Format:
    """A file format."""

    name: str
    matches: Callable[[bytes], bool]
    open: Callable[[BytesIO], ImageFile.ImageFile]
    is_cut: Callable[[bytes], bool]
    repairs: Callable[[bytes], tuple[bytes, ...]] = lambda data: ()
    """Files to decode instead of a damaged one. The pixels count only if all of them agree."""


FORMATS = (
    _Format(
        name="PNG",
        matches=lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
        open=PngImagePlugin.PngImageFile,
        is_cut=is_cut_png,
        repairs=pixels_of_png,
    ),
    _Format(
        name="JPEG",
        matches=lambda data: data.startswith(b"\xff\xd8\xff"),
        open=JpegImagePlugin.JpegImageFile,
        is_cut=is_cut_jpeg,
        repairs=complete_jpegs,
    ),
    _Format(
        name="WebP",
        matches=lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
        open=WebPImagePlugin.WebPImageFile,
        is_cut=lambda data: int.from_bytes(data[4:8], "little") + 8 > len(data),
    ),
    _Format(
        name="BMP",
        matches=lambda data: data.startswith(b"BM"),
        open=BmpImagePlugin.BmpImageFile,
        is_cut=lambda data: int.from_bytes(data[2:6], "little") > len(data),
    ),
)


def _format(data: bytes) -> _Format:
    if not data:
        raise ImageError("IMAGE_UNREADABLE", "the image is empty (0 bytes)")
    for fmt in FORMATS:
        if fmt.matches(data):
            return fmt
    kind = foreign_kind(data)
    raise ImageError("IMAGE_FORMAT", kind if kind.startswith("not") else f"the file is {kind}")


def _decode_repaired(
    fmt: _Format, data: bytes, channels: int, limits: ImageLimits
) -> NDArray[np.uint8] | None:
    try:
        versions = [_decode(fmt, each, channels, limits) for each in fmt.repairs(data)]
    except ImageError:
        raise
    except Exception:  # the repair does not reach the damage
        return None
    agree = versions and all(np.array_equal(versions[0], other) for other in versions[1:])
    return versions[0] if agree else None


def _decode(fmt: _Format, data: bytes, channels: int, limits: ImageLimits) -> NDArray[np.uint8]:
    if fmt.name == "WebP" and any(size := webp_size(data)):
        limits.check_size(*size)
    # `Image.open` warns about sizes above a global limit; here the limit is an argument.
    with fmt.open(BytesIO(data)) as image:
        limits.check_size(*image.size, scale=2 if fmt.name == "JPEG" else 1)
        factor = reduction(*image.size)
        if isinstance(image, JpegImagePlugin.JpegImageFile) and factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        raw_mode = str(image.tile[0][3]) if image.tile else ""
        image.load()
        upright = _upright(image)
        upright.info = _with_scaled_key(image.info, raw_mode)
        opaque = fmt.name == "BMP" and _is_clear(upright)
        flat = _flat(upright, opaque=opaque, factor=1 if fmt.name == "JPEG" else factor)
        small = flat.convert("L" if channels == 1 else "RGB")
        if fmt.name != "JPEG" and factor > 1 and flat.size == upright.size:
            small = small.reduce(factor)
    return np.array(small, dtype=np.uint8).reshape(small.height, small.width, channels)


def _warn_of_lost_half(data: bytes, name: str) -> None:
    """Warn of a BMP whose second half is zeros, as after an interrupted copy."""
    if len(data.rstrip(b"\0")) * 2 <= len(data) and any(data[54:]):
        log.warning(
            "%s: the second half of the BMP file has zeros only, as after an interrupted copy; "
            "compare it with its source",
            name,
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # the pixels are usable despite damaged metadata
        return image
    method = TRANSPOSE.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _with_scaled_key(
    info: dict[str | tuple[int, int], object], raw_mode: str
) -> dict[str | tuple[int, int], object]:
    """Scale the transparent sample of a PNG as Pillow scales its pixels."""
    key = info.get("transparency")
    if isinstance(key, int) and raw_mode in KEY_SCALE and key * KEY_SCALE[raw_mode] <= 255:
        return {**info, "transparency": key * KEY_SCALE[raw_mode]}
    if isinstance(key, tuple) and raw_mode == "RGB;16B":
        return {**info, "transparency": tuple(sample >> 8 for sample in key)}
    return info


def _is_clear(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _flat(image: Image.Image, *, opaque: bool, factor: int) -> Image.Image:
    """Return the image without transparency; 16-bit grey is rounded to 8 bits.

    factor: divisor by which a transparent image is reduced first, since compositing takes 30 bytes
        a pixel.
    """
    if opaque:
        return image.convert("RGB")
    if image.mode.startswith("I"):
        return _eight_bits(image)
    if not image.has_transparency_data:
        return image
    clear = image.convert("RGBA")
    return _on_ground(clear.reduce(factor) if factor > 1 else clear)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Round 16-bit grey, which `Image.convert` would clip at 255."""
    wide = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    alpha = Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8))
    return _on_ground(Image.merge("LA", (grey, alpha)).convert("RGBA"))


def _on_ground(image: Image.Image) -> Image.Image:
    """Composite an RGBA image on white, or on black if its opaque pixels are light."""
    alpha = np.asarray(image)[:, :, 3].astype(np.float64)
    luma = np.asarray(image.convert("L"), dtype=np.float64)
    weight = alpha.sum()
    is_light = weight > 0 and (luma * alpha).sum() / weight >= LIGHT
    ground = Image.new("RGBA", image.size, "black" if is_light else "white")
    return Image.alpha_composite(ground, image)
