"""Decoding of encoded images and checking of raw ones: what comes out, and what is refused."""

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageFile

from metanas.errors import InvalidInput
from metanas.images.decode import decode, from_array
from metanas.spec.examples import Limits
from metanas_data.arrays import from_array as raw_from_array
from metanas_data.decode import ORIENTATION
from metanas_data.limits import ImageLimits

LIMITS = Limits()
LOSSLESS = ("PNG", "BMP", "WEBP")


def encode(image: Image.Image | NDArray[Any], fmt: str, **options: Any) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if fmt == "WEBP":
        options = {"lossless": True, "exact": True, "method": 0} | options
    buffer = BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def reason(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode(data, channels=3, limits=limits)
    assert [v.field for v in caught.value.violations] == ["image"]
    return caught.value.reason


def noise(height: int = 11, width: int = 7) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size; its pixel data are far too few."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 12, 0, 0, 54) + info + b"\0" * 12


def webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_header(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    data = bytearray(encode(noise(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


uint8_images = hnp.arrays(np.uint8, st.tuples(st.integers(2, 9), st.integers(2, 9), st.just(3)))


@pytest.mark.parametrize("fmt", LOSSLESS)
@given(pixels=uint8_images)
@settings(max_examples=30)
def test_lossless_formats_come_back_as_they_were(fmt: str, pixels: NDArray[np.uint8]) -> None:
    decoded = decode(encode(pixels, fmt), channels=3, limits=LIMITS)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("fmt", ["PNG", "BMP"])
def test_grey_files_give_grey_and_repeated_grey(fmt: str) -> None:
    grey = noise()[:, :, 0]
    data = encode(grey, fmt)
    np.testing.assert_array_equal(decode(data, channels=1, limits=LIMITS), grey[:, :, None])
    colour = decode(data, channels=3, limits=LIMITS)
    np.testing.assert_array_equal(colour, np.repeat(grey[:, :, None], 3, axis=2))


@given(pixels=uint8_images.filter(lambda pixels: pixels.max() > 1))
@settings(max_examples=30)
def test_files_and_arrays_turn_grey_alike(pixels: NDArray[np.uint8]) -> None:
    from_file = decode(encode(pixels, "PNG"), channels=1, limits=LIMITS)
    np.testing.assert_array_equal(from_file, from_array(pixels, channels=1, limits=LIMITS))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_is_near(options: dict[str, Any]) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 48, 3))
    decoded = decode(encode(ramp.copy(), "JPEG", quality=95, **options), channels=3, limits=LIMITS)
    assert decoded.shape == ramp.shape
    assert np.abs(decoded.astype(int) - ramp).max() <= 8


def test_cmyk_jpeg() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    decoded = decode(encode(ink, "JPEG", quality=95), channels=3, limits=LIMITS)
    assert (decoded[..., 0] > 200).all()
    assert (decoded[..., 1:] < 50).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1"])
def test_transparency_becomes_white(mode: str) -> None:
    clear: dict[str, Any] = {} if "A" in mode else {"transparency": 0}
    if mode == "RGB":
        clear = {"transparency": (0, 0, 0)}
    image = Image.new(mode, (3, 3), 0)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 0, 0])
    data = encode(image, "PNG", **clear)
    for channels in (1, 3):
        assert (decode(data, channels=channels, limits=LIMITS) == 255).all()


def test_half_transparent_black_is_grey() -> None:
    data = encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG")
    assert set(decode(data, channels=1, limits=LIMITS).flat) == {127}


def test_transparent_webp() -> None:
    data = encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP")
    assert (decode(data, channels=3, limits=LIMITS) == 255).all()


def test_palette_colours() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 30])
    for fmt in ("PNG", "BMP"):
        decoded = decode(encode(image, fmt), channels=3, limits=LIMITS)
        assert decoded.reshape(-1, 3).tolist() == [[200, 10, 30]] * 16


def test_sixteen_bit_grey_is_rounded_not_clipped() -> None:
    values = np.array([[0, 128, 129], [257 * 77, 40000, 65535]], dtype=np.uint16)
    decoded = decode(encode(values, "PNG"), channels=1, limits=LIMITS)
    np.testing.assert_array_equal(decoded[:, :, 0], np.rint(values / 257).astype(np.uint8))
    assert decode(encode(values, "PNG"), channels=3, limits=LIMITS).shape == (2, 3, 3)


def test_bilevel_images() -> None:
    image = Image.fromarray(noise()[:, :, 0] > 128)
    for fmt in ("PNG", "BMP"):
        assert set(decode(encode(image, fmt), channels=1, limits=LIMITS).flat) == {0, 255}


def test_an_animation_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for fmt in ("WEBP", "PNG"):
        data = encode(first, fmt, save_all=True, append_images=[second])
        decoded = decode(data, channels=3, limits=LIMITS)
        assert decoded.reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The upright image of each orientation (EXIF 2.32, 4.6.4 A)."""
    rotated = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }
    return rotated[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode(encode(noise(), fmt, exif=exif), channels=3, limits=LIMITS)
    np.testing.assert_array_equal(decoded, upright(noise(), orientation))


def test_exif_orientation_of_photos() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encode(noise(11, 7), "JPEG", exif=exif)
    assert decode(data, channels=3, limits=LIMITS).shape == (7, 11, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says it and reads on
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"junk"])
def test_damaged_metadata_do_not_matter(exif: bytes) -> None:
    data = encode(noise(), "JPEG", exif=exif)
    assert decode(data, channels=3, limits=LIMITS).shape == (11, 7, 3)


@pytest.mark.parametrize(
    "data",
    [b"GIF89a" + b"\0" * 50, b"%PDF-1.7", b"<svg/>", b"II*\0" + b"\0" * 50, b"\0", b"BNnope"],
)
def test_other_formats_are_refused(data: bytes) -> None:
    assert reason(data) == "IMAGE_FORMAT"


def test_no_bytes() -> None:
    assert reason(b"") == "IMAGE_UNREADABLE"


HEADERS = {"PNG": png_header, "BMP": bmp_header, "WEBP": webp_header, "JPEG": jpeg_header}


@pytest.mark.parametrize("fmt", HEADERS)
def test_a_decompression_bomb_is_told_by_its_header(fmt: str) -> None:
    data = HEADERS[fmt](16383, 16383)
    assert reason(data) == "IMAGE_TOO_MANY_PIXELS"
    most = 2**26 - 2**16 if fmt == "JPEG" else 2**28 - 2**16  # a JPEG is decoded at half size
    assert reason(data, Limits(max_pixels=most)) == "IMAGE_TOO_MANY_PIXELS"


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "WEBP"])  # a JPEG that ends early decodes to grey
def test_a_size_between_the_limit_and_that_of_pillow_warns_of_nothing(fmt: str) -> None:
    # Pillow warns from 89 million pixels on, and every warning is an error here
    assert reason(HEADERS[fmt](10_000, 9_500), Limits(max_pixels=100_000_000)).startswith("IMAGE_")


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("fmt", ["PNG", "BMP", "JPEG"])  # WebP cannot say 0
def test_images_without_pixels(fmt: str, width: int, height: int) -> None:
    assert reason(HEADERS[fmt](width, height)) == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("fmt", [*LOSSLESS, "JPEG"])
def test_one_pixel_is_too_small(fmt: str) -> None:
    assert reason(encode(noise(1, 1), fmt)) == "IMAGE_TOO_SMALL"
    assert decode(encode(noise(2, 2), fmt), channels=3, limits=LIMITS).shape == (2, 2, 3)


def test_too_many_bytes() -> None:
    data = encode(noise(), "PNG")
    assert reason(data, Limits(max_image_bytes=len(data) - 1)) == "IMAGE_TOO_LARGE"
    decode(data, channels=3, limits=Limits(max_image_bytes=len(data)))


@pytest.mark.parametrize("fmt", [*LOSSLESS, "JPEG"])
def test_every_truncation_is_told(fmt: str) -> None:
    data = encode(noise(), fmt)
    seen = set()
    for length in range(len(data) - 1):
        try:
            decode(data[:length], channels=3, limits=LIMITS)
        except InvalidInput as error:
            seen.add(error.reason)
        else:  # only what comes after the last pixel is missing: checksums, end marks, padding
            assert length >= len(data) - 24
    assert seen <= {"IMAGE_TRUNCATED", "IMAGE_FORMAT", "IMAGE_UNREADABLE"}
    assert reason(data[: len(data) // 2]) == "IMAGE_TRUNCATED"


@pytest.mark.parametrize("fmt", [*LOSSLESS, "JPEG"])
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_give_pixels_or_invalid_input(fmt: str, data: st.DataObject) -> None:
    image = bytearray(encode(noise(), fmt))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    assert_pixels_or_invalid_input(bytes(image))


@given(
    magic=st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBP", b"BM"]
    ),
    rest=st.binary(max_size=200),
)
def test_random_bytes_give_pixels_or_invalid_input(magic: bytes, rest: bytes) -> None:
    assert_pixels_or_invalid_input(magic + rest)


def assert_pixels_or_invalid_input(data: bytes) -> None:
    limits = Limits(max_pixels=10_000)
    with suppress(InvalidInput):
        decoded = decode(data, channels=3, limits=limits)
        assert decoded.shape[0] * decoded.shape[1] <= limits.max_pixels


def test_many_threads_and_nothing_global_is_changed() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    files = [encode(noise(20 + i, 30), fmt) for i in range(10) for fmt in (*LOSSLESS, "JPEG")]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(lambda data: decode(data, channels=3, limits=LIMITS), files))
    for data, pixels in zip(files, decoded, strict=True):
        np.testing.assert_array_equal(pixels, decode(data, channels=3, limits=LIMITS))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_eight_bits(dtype: Any, shape: tuple[int, ...], channels: int) -> None:
    white = np.full(shape, 255 if dtype == np.uint8 else 1, dtype=dtype)
    result = from_array(white, channels=channels, limits=LIMITS)
    assert result.shape == (5, 4, channels)
    assert result.dtype == np.uint8
    assert np.all(result == 255)


@given(pixels=hnp.arrays(np.float32, (3, 4, 3), elements=st.floats(0, 1, width=32)))
def test_grey_floats_stay_within_bounds(pixels: NDArray[np.float32]) -> None:
    grey = raw_from_array(pixels, channels=1, limits=ImageLimits())
    assert grey.min() >= 0
    assert grey.max() <= 1


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((4, 4, 3), dtype=np.float64), "TENSOR_DTYPE"),
        (np.zeros((4, 4, 3), dtype=np.int64), "TENSOR_DTYPE"),
        (np.zeros((4, 4, 3), dtype=bool), "TENSOR_DTYPE"),
        (np.zeros(4, dtype=np.uint8), "TENSOR_SHAPE"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), "TENSOR_SHAPE"),
        (np.zeros((3, 4, 4), dtype=np.uint8), "TENSOR_CHANNELS"),
        (np.zeros((4, 4, 2), dtype=np.uint8), "TENSOR_CHANNELS"),
        (np.zeros((4, 4, 0), dtype=np.uint8), "TENSOR_CHANNELS"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "IMAGE_TOO_SMALL"),
        (np.zeros((4, 0), dtype=np.float32), "IMAGE_TOO_SMALL"),
        (np.zeros((1, 1, 3), dtype=np.uint8), "IMAGE_TOO_SMALL"),
        (np.zeros((30, 30, 3), dtype=np.uint8), "IMAGE_TOO_MANY_PIXELS"),
        (np.zeros((60, 60, 3), dtype=np.float32), "IMAGE_TOO_LARGE"),
        (np.full((4, 4, 3), np.nan, dtype=np.float32), "TENSOR_NOT_FINITE"),
        (np.full((4, 4, 3), np.inf, dtype=np.float32), "TENSOR_NOT_FINITE"),
        (np.full((4, 4, 3), 255, dtype=np.float32), "TENSOR_RANGE"),
        (np.eye(4, dtype=np.uint8), "TENSOR_RANGE"),
        (np.full((4, 4, 3), -0.1, dtype=np.float32), "TENSOR_RANGE"),
    ],
)
def test_arrays_that_are_refused(array: NDArray[Any], expected: str) -> None:
    limits = Limits(max_pixels=800, max_image_bytes=20_000)
    with pytest.raises(InvalidInput) as caught:
        from_array(array, channels=3, limits=limits)
    assert caught.value.reason == expected
    assert caught.value.violations[0].field == "image"


def test_channels_first_arrays_get_a_hint() -> None:
    with pytest.raises(InvalidInput, match="transpose"):
        from_array(np.zeros((3, 4, 4), dtype=np.uint8), channels=3, limits=LIMITS)
