"""Decoding of files that once came out wrong, or were refused although their pixels are whole."""

import logging
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metanas.spec.examples import Limits
from metanas_data.arrays import eight_bits
from metanas_data.decode import FULL_PIXELS, ORIENTATION, decode
from metanas_data.errors import ImageError
from metanas_data.headers import peek
from metanas_data.limits import ImageLimits

LIMITS = ImageLimits()
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read(data: bytes, channels: int = 1) -> NDArray[np.uint8]:
    return decode(data, channels=channels, limits=LIMITS)


def encode(picture: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read(data)
    return caught.value


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum or right)


def with_chunk(png: bytes, extra: bytes) -> bytes:
    """The PNG with a chunk after its header."""
    end_of_header = len(SIGNATURE) + 25
    return png[:end_of_header] + extra + png[end_of_header:]


def grey_png(samples: NDArray[Any], depth: int, key: int) -> bytes:
    """A grey PNG with a transparent sample; the width must fill whole bytes."""
    height, width = samples.shape
    bits = ((samples[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
    rows = np.packbits(bits.reshape(height, width * depth), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(">H", key))
    pixels = chunk(b"IDAT", zlib.compress(raw))
    return SIGNATURE + header + transparent + pixels + chunk(b"IEND", b"")


def noise(height: int = 24, width: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ramp(width: int, height: int) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_sample_of_grey_png_becomes_white(depth: int) -> None:
    most = 2**depth - 1
    key = {1: 1, 2: 1, 4: 9}.get(depth, 0)
    samples = np.tile(np.arange(16) * most // 15, (4, 1))
    found = read(grey_png(samples, depth, key))[:, :, 0]
    assert (samples == key).any()
    assert (found[samples == key] == 255).all()
    others = samples != key
    np.testing.assert_array_equal(found[others], np.rint(samples[others] * 255 / most))


def test_transparent_colour_of_a_sixteen_bit_png() -> None:
    raw = 2 * (b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    transparent = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    parts = header + transparent + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert read(SIGNATURE + parts, 3).tolist() == [[[255, 255, 255], [0, 0, 0]]] * 2


@pytest.mark.parametrize("alpha", [0, 255])
def test_bmp_with_one_alpha_everywhere_is_opaque(alpha: int) -> None:
    picture = noise()
    clear = picture.copy()
    clear.putalpha(alpha)
    rows = np.asarray(clear)[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 32, 24, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
    info += struct.pack("<4I", *masks) + b"BGRs" + b"\0" * 48
    data = b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info))
    np.testing.assert_array_equal(read(data + info + rows, 3), np.asarray(picture))


def icon(colour: tuple[int, int, int]) -> Image.Image:
    """A bar of one colour on a transparent ground."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((*colour, 255), (2, 0, 5, 8))
    return picture


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
@pytest.mark.parametrize(
    ("colour", "ground"),
    [((255, 255, 255), 0), ((255, 255, 0), 0), ((128, 128, 128), 255), ((0, 0, 0), 255)],
)
def test_drawing_on_transparency_stays_visible(
    colour: tuple[int, int, int], ground: int, fmt: str
) -> None:
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    found = read(encode(icon(colour), fmt, **options), 3)
    assert (found[0, 0] == ground).all()
    assert tuple(found[0, 3]) == colour


def test_white_drawing_with_a_transparent_sample_stays_visible() -> None:
    samples = np.zeros((4, 16), dtype=np.int64)
    samples[1] = 65535
    found = read(grey_png(samples, 16, 0))[:, :, 0]
    np.testing.assert_array_equal(found, samples * 255 // 65535)


@pytest.mark.parametrize("channels", [1, 3])
def test_array_of_zeros_and_ones_is_refused(channels: int) -> None:
    with pytest.raises(ImageError, match="multiply the array by 255") as caught:
        eight_bits(np.eye(5, dtype=np.uint8), channels=channels, limits=LIMITS)
    assert caught.value.reason == "TENSOR_RANGE"
    black = np.zeros((5, 5), dtype=np.uint8)
    assert not eight_bits(black, channels=channels, limits=LIMITS).any()


def test_damaged_or_large_metadata_of_a_png_do_not_matter() -> None:
    png = encode(noise(), "PNG")
    profile = b"icc\0\0" + zlib.compress(b"\0" * 1_500_000)
    for extra in (
        chunk(b"iCCP", profile),
        chunk(b"iCCP", b"icc\0\x07"),
        chunk(b"tEXt", b"Comment\0hello", checksum=1),
        chunk(b"zTXt", b"Comment\0\x07"),
        chunk(b"pHYs", b"\0"),
    ):
        np.testing.assert_array_equal(read(with_chunk(png, extra), 3), read(png, 3))


def test_orientation_is_applied_beside_damaged_metadata() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    png = encode(noise(), "PNG", exif=exif)
    damaged = with_chunk(png, chunk(b"tEXt", b"Comment\0hello", checksum=1))
    np.testing.assert_array_equal(read(damaged), read(png))
    assert read(damaged).shape == (32, 24, 1)


def test_damaged_pixels_of_a_png_are_refused() -> None:
    png = bytearray(encode(noise(), "PNG"))
    png[png.index(b"IDAT") + 30] ^= 0xFF
    assert refusal(bytes(png)).reason == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("lost", [1, 2])
def test_jpeg_without_end_marker_is_read(lost: int) -> None:
    jpeg = encode(noise(), "JPEG")
    np.testing.assert_array_equal(read(jpeg[:-lost]), read(jpeg))


def test_jpeg_without_its_last_rows_is_refused() -> None:
    jpeg = encode(noise(64, 64), "JPEG")
    for lost in (20, 200, len(jpeg) // 2):
        assert refusal(jpeg[:-lost]).reason == "IMAGE_TRUNCATED"


def test_bmp_without_its_second_half_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    bmp = encode(noise(), "BMP")
    half = bmp[: len(bmp) // 2] + b"\0" * (len(bmp) - len(bmp) // 2)
    with caplog.at_level(logging.WARNING):
        read(bmp)
        assert not caplog.records
        decode(half, channels=1, limits=ImageLimits(), name="photos/1.bmp")
    assert "photos/1.bmp: the second half" in caplog.text


def test_orientation_is_applied_beside_a_zero_denominator() -> None:
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x011A, 5, 1, 38)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + b"\0" * 4
    jpeg = encode(noise(), "JPEG", exif=exif + struct.pack("<II", 72, 0))
    assert read(jpeg).shape == (32, 24, 1)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x1cftypisom\0\0\0\0", "video"),
        (b"<!DOCTYPE html><html>404", "HTML"),
        (b"\xef\xbb\xbf\n<html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"II*\0" + b"\0" * 50, "TIFF"),
        (b"GIF89a" + b"\0" * 50, "GIF"),
        (b"PK\x03\x04", "ZIP"),
        (b"dear sir or madam", "send PNG, JPEG, WebP or BMP"),
        (b"", "empty"),
    ],
)
def test_other_files_are_named(data: bytes, named: str) -> None:
    assert named in refusal(data).message


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP"])
def test_large_image_is_reduced(fmt: str) -> None:
    picture = ramp(2304, 1843)
    assert picture.width * picture.height > FULL_PIXELS
    found = read(encode(picture, fmt), 3)
    assert found.shape == (922, 1152, 3)
    small = np.asarray(picture.resize((1152, 922), Image.Resampling.BOX)).astype(int)
    assert np.abs(found - small).max() <= 4


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_image_up_to_the_bound_keeps_its_size(fmt: str) -> None:
    picture = ramp(2048, 2048)
    assert picture.width * picture.height == FULL_PIXELS
    data = encode(picture, fmt)
    np.testing.assert_array_equal(read(data, 3), np.asarray(Image.open(BytesIO(data))))


@pytest.mark.parametrize(("width", "height", "factor"), [(4032, 3024, 2), (8160, 6144, 4)])
def test_photos_of_a_telephone_fit(width: int, height: int, factor: int) -> None:
    photo = encode(Image.new("RGB", (width, height), "teal"), "JPEG")
    found = read(photo, 3)
    assert found.shape == (height // factor, width // factor, 3)
    assert 36 * found.shape[0] * found.shape[1] < Limits().max_total_pixels


@pytest.mark.parametrize(
    ("fmt", "stored"), [("PNG", 9_000_000), ("BMP", 9_000_000), ("WebP", 9_000_000)]
)
def test_pixels_by_the_header(fmt: str, stored: int) -> None:
    data = encode(Image.new("RGB", (3000, 3000)), fmt)
    assert peek(data) == (stored, 2_250_000)
    assert read(data).shape[:2] == (1500, 1500)
    assert peek(data[:20]) in (None, (0, 0))


def test_pixels_of_a_jpeg_by_its_header() -> None:
    assert peek(encode(Image.new("L", (3000, 3000)), "JPEG")) == (2_250_000, 2_250_000)
    assert peek(b"\xff\xd8\xff" * 10**6) == (FULL_PIXELS, FULL_PIXELS)
    assert peek(b"no image") is None


def test_large_transparent_image_is_reduced_before_it_is_composited() -> None:
    picture = Image.new("RGBA", (3000, 3000), (10, 200, 30, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 1500, 3000))
    pixels = read(encode(picture, "PNG"), 3)
    assert pixels.shape == (1500, 1500, 3)
    assert {tuple(map(int, pixel)) for pixel in (pixels[5, 5], pixels[5, -5])} == {
        (255, 255, 255),
        (10, 200, 30),
    }


def test_jpeg_of_too_many_pixels_is_refused_by_its_header() -> None:
    jpeg = bytearray(encode(noise(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 14_200, 14_200)
    assert refusal(bytes(jpeg)).reason == "IMAGE_TOO_MANY_PIXELS"


def test_photo_upright_after_reduction() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert read(encode(ramp(4032, 3024), "JPEG", exif=exif)).shape == (2016, 1512, 1)
