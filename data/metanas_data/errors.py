"""Errors of images, data sets and records, and the root of all errors of the project."""


class MetanasError(Exception):
    """Root of all errors. `reason` is stable and for programs, `str(error)` is for people."""

    reason: str
    message: str

    def __init__(self, reason: str, message: str, /) -> None:
        # Exception.__init__ is not called: pickle makes the error again from `args`, which must
        # stay the arguments of the subclass.
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class DatasetError(MetanasError):
    """A data set that cannot be used, or is too small for the requested tasks.

    Reasons: DATASET_EMPTY, DATASET_FORMAT, DATASET_IMAGE, DATASET_MISSING, DATASET_SIZE,
    DATASET_SPLIT, DATASET_TOO_FEW_CLASSES, DATASET_TOO_FEW_IMAGES, EPISODE_SHAPE,
    SEED_OUT_OF_RANGE.
    """


class ImageError(MetanasError):
    """An image that cannot be used.

    Reasons: IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_TOO_MANY_PIXELS, IMAGE_TOO_SMALL, IMAGE_TRUNCATED,
    IMAGE_UNREADABLE, TENSOR_CHANNELS, TENSOR_DTYPE, TENSOR_NOT_FINITE, TENSOR_RANGE, TENSOR_SHAPE.
    """


class EvaluationError(MetanasError):
    """An evaluation that cannot be read, resumed, compared or written.

    Reasons: EPISODES_DIFFER, EVALUATION_BUSY, EVALUATION_FORMAT, EVALUATION_MISSING,
    EVALUATION_SETTINGS, EVALUATION_UNWRITABLE, TOO_FEW_EPISODES.
    """
