"""Names of file formats that cannot be decoded, for error messages."""

from collections.abc import Mapping

READ = "PNG, JPEG, WebP or BMP"

BY_PREFIX: Mapping[bytes, str] = {
    b"version https://git-lfs.": "a Git LFS pointer, not the image; fetch it with `git lfs pull`",
    b"GIF8": f"a GIF file; save it as {READ}",
    b"II*\0": f"a TIFF file; save it as {READ}",
    b"MM\0*": f"a TIFF file; save it as {READ}",
    b"%PDF": f"a PDF file; export the image as {READ}",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"8BPS": f"a Photoshop file; export it as {READ}",
    b"\0\0\x01\0": f"an icon file (ICO); save it as {READ}",
    b"\xff\x0a": f"a JPEG XL file; save it as {READ}",
    b"\0\0\0\x0cJXL ": f"a JPEG XL file; save it as {READ}",
    b"\0\0\0\x0cjP  ": f"a JPEG 2000 file; save it as {READ}",
    b"\x93NUMPY": "a NumPy array; load it and send the array",
}
"""First bytes of a file -> the end of the sentence "the file is ..."."""

BY_BRAND: Mapping[bytes, str] = {
    b"heic": "a HEIC",
    b"heix": "a HEIC",
    b"hevc": "a HEIC",
    b"mif1": "a HEIF",
    b"msf1": "a HEIF",
    b"avif": "an AVIF",
    b"avis": "an AVIF",
}
"""Brand in the first box of an ISO base media file (ISO/IEC 14496-12) -> its name."""

TEXT_BYTES = 1024


def foreign_kind(data: bytes) -> str:
    """Return the end of the sentence "the file is ..." for a file that is not read."""
    for prefix, kind in BY_PREFIX.items():
        if data.startswith(prefix):
            return kind
    if data[4:8] == b"ftyp":
        name = BY_BRAND.get(data[8:12])
        if name is not None:
            return f"{name} file despite its name; save it as {READ}"
        return "a video; send single images"
    return _kind_of_text(data[:TEXT_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower())


def _kind_of_text(head: bytes) -> str:
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return f"an SVG drawing; export it as {READ}"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not the image; download the image again"
    return f"not an image that can be read; send {READ}"
