"""Limits of one image."""

from dataclasses import dataclass

from metanas_data.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """The largest and the smallest image that may be read."""

    max_bytes: int | None = None
    """Most bytes of the encoded file or the array; None is no limit."""
    max_pixels: int = 50_000_000
    """Most pixels of a decoded image. Decoding reduces a large JPEG (see `decode`), so its file may
    have four times as many."""
    min_side: int = 2
    """Least width and height, in pixels."""

    def check_bytes(self, size: int) -> None:
        """Raise IMAGE_TOO_LARGE for more than `max_bytes`."""
        if self.max_bytes is not None and size > self.max_bytes:
            message = f"the image has {size} bytes; at most {self.max_bytes} are allowed"
            raise ImageError("IMAGE_TOO_LARGE", message)

    def check_size(self, width: int, height: int, *, scale: int = 1) -> None:
        """Raise IMAGE_TOO_SMALL or IMAGE_TOO_MANY_PIXELS.

        scale: the least divisor by which decoding reduces both sides.
        """
        if min(width, height) < self.min_side:
            message = f"{width}×{height} pixels; each side needs at least {self.min_side}"
            raise ImageError("IMAGE_TOO_SMALL", message)
        most = self.max_pixels * scale**2
        if width * height > most:
            message = f"{width}×{height} pixels; at most {most} are allowed; send a smaller image"
            raise ImageError("IMAGE_TOO_MANY_PIXELS", message)
