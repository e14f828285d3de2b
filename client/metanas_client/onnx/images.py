"""Images for a model on this side: files and arrays as uint8 (H, W, C), as the server reads them.

Needs the extra "onnx".
"""

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import Image as Pillow

from metanas_client.errors import ClientError, InvalidInput, Violation
from metanas_client.support import Image, RawImage, image_list

FORMATS: Mapping[bytes, Callable[[BytesIO], Pillow.Image]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
"""How a file begins -> what opens it. `Image.open` is not used: it warns about, or refuses, sizes
above a global limit of its own, where `MAX_PIXELS` has its error."""
MAX_PIXELS = 50_000_000
LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)  # ITU-R 601-2 as Pillow's "L", times 65536


def load_images(images: Iterable[Image], channels: int) -> list[NDArray[np.uint8]]:
    """Every image as uint8 (H, W, channels).

    Args:
        images: paths, encoded bytes, arrays, or one array (N, H, W, C).
        channels: 1 or 3; colour becomes grey by ITU-R 601-2 luma, grey is repeated.

    Raises:
        InvalidInput: IMAGE_UNREADABLE, IMAGE_TOO_MANY_PIXELS, TENSOR_FORM, TENSOR_CHANNELS or
            TENSOR_RANGE, with the index and, if there is one, the file.
    """
    loaded = []
    for index, (source, content) in enumerate(image_list(images, "images")):
        try:
            loaded.append(load_image(content, channels))
        except ClientError as error:
            violation = Violation(f"images[{index}]", error.reason, error.message, source)
            raise InvalidInput((violation,)) from error
    return loaded


def load_image(image: bytes | RawImage, channels: int) -> NDArray[np.uint8]:
    """One image as uint8 (H, W, channels); see `load_images`."""
    pixels = _from_raw(image) if isinstance(image, RawImage) else _decode(image, channels)
    return _with_channels(pixels, channels)


def _decode(data: bytes, channels: int) -> NDArray[np.uint8]:
    try:
        opens = next(plugin for magic, plugin in FORMATS.items() if data.startswith(magic))
        with opens(BytesIO(data)) as opened:
            _check_pixels(opened.width, opened.height)
            image = ImageOps.exif_transpose(opened)
            image.load()
            return _eight_bits(image, channels)
    except ClientError:
        raise
    except Exception as error:  # Pillow has no closed set of errors for damaged files
        raise _bad(
            "IMAGE_UNREADABLE", "not a whole PNG, JPEG, WebP or BMP file; is it damaged?"
        ) from error


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"{width}×{height} pixels; at most {MAX_PIXELS} are read"
        raise _bad("IMAGE_TOO_MANY_PIXELS", message)


def _eight_bits(image: Pillow.Image, channels: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip at 255
        wide = np.asarray(image).astype(np.uint32)
        return ((wide * 255 + 32767) // 65535).astype(np.uint8)
    if image.has_transparency_data:
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)


def _from_raw(image: RawImage) -> NDArray[np.uint8]:
    if 0 in image.shape:
        raise _bad("IMAGE_TOO_SMALL", f"shape {image.shape}: every side needs a pixel")
    if not image.is_float:
        return np.frombuffer(image.data, dtype=np.uint8).reshape(image.shape)
    values = np.frombuffer(image.data, dtype="<f4").reshape(image.shape)
    if not bool(np.all((values >= 0) & (values <= 1))):
        raise _bad("TENSOR_RANGE", "float images go from 0 to 1, without NaN")
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    image = pixels[:, :, None] if pixels.ndim == 2 else pixels
    found = image.shape[2]
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image, channels, axis=2)
    if found == 3 and channels == 1:
        grey = (image.astype(np.uint32) @ LUMA + 0x8000) >> 16
        return grey.astype(np.uint8)[:, :, None]
    raise _bad("TENSOR_CHANNELS", f"shape {image.shape}: the last axis is 1 or 3 channels")


def _bad(reason: str, message: str) -> ClientError:
    return ClientError(reason, message)
