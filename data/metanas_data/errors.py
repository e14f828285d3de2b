"""Errors of images, data sets and records, each with a stable reason."""


class DataError(Exception):
    """Root of the errors. `reason` is for programs, `str(error)` for people."""

    reason: str
    message: str

    def __init__(self, reason: str, message: str, /) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class ImageError(DataError):
    """An image that cannot be used.

    Reasons: IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_TOO_MANY_PIXELS, IMAGE_TOO_SMALL, IMAGE_TRUNCATED,
    IMAGE_UNREADABLE, TENSOR_CHANNELS, TENSOR_DTYPE, TENSOR_NOT_FINITE, TENSOR_RANGE, TENSOR_SHAPE.
    """
