"""Support sets in all accepted forms, read into one list of examples.

Arrays are read through the buffer protocol, so NumPy arrays work without an import of NumPy.
"""

import array
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from metanas_client.errors import InvalidInput, Violation
from metanas_data.folders import class_files
from metanas_data.suggest import did_you_mean_file

Image: TypeAlias = object
"""A path, the bytes of an encoded image, or an array: uint8 (H, W, C) or (H, W), or float32/float64
of the same shapes in 0..1."""
Support: TypeAlias = "str | os.PathLike[str] | Mapping[str, object] | Iterable[tuple[str, Image]]"
"""A folder with one sub-folder a class; class -> images (a sequence of images, or one array
(N, H, W, C)); or (class, image) pairs."""

FLOATS = {"f", "d"}
NO_CONTENT = {"support": "NO_EXAMPLES", "images": "NO_IMAGES"}
"""Argument -> reason of the error if its folder has no image."""


@dataclass(frozen=True)
class RawImage:
    """Pixels in row-major order, little-endian."""

    shape: tuple[int, ...]
    """(H, W, C) or (H, W)."""
    is_float: bool
    """float32 in 0..1 instead of uint8."""
    data: bytes


@dataclass(frozen=True)
class SupportExample:
    """Labelled image."""

    label: bytes
    """The class in UTF-8, or the bytes of a folder name, which the server checks."""
    image: bytes | RawImage | Path
    """An encoded image, pixels, or a file that is not read yet."""

    @property
    def source(self) -> str | None:
        """Return the name of the file, if there is one."""
        return str(self.image) if isinstance(self.image, Path) else None

    def size(self) -> int:
        """Return the number of bytes, without reading a file.

        Raises:
            OSError: the file cannot be found.
        """
        match self.image:
            case Path():
                return self.image.stat().st_size
            case RawImage():
                return len(self.image.data)
        return len(self.image)


@dataclass(frozen=True)
class SupportSet:
    """Support set before its files are read."""

    classes: tuple[bytes, ...]
    """In the order of the model's outputs; classes without examples are included."""
    examples: tuple[SupportExample, ...]


Content = tuple[bytes, bytes | RawImage]
"""Label, and an encoded image or pixels."""


def read_support(support: Support, *, field: str = "support") -> SupportSet:
    """Read labelled images without the content of their files.

    field: the argument that errors name.

    Raises:
        InvalidInput: it has none of the forms of `Support`, or an array in it is unusable.
    """
    match support:
        case str() | os.PathLike():
            return read_folder(Path(support), field)
        case Mapping():
            return _from_mapping(support)
        case Iterable() if not isinstance(support, bytes | bytearray | memoryview):
            return _from_pairs(support)
    raise InvalidInput.single(
        field,
        "SUPPORT_FORM",
        "labelled images are a folder, a mapping of class to images, or (class, image) pairs, "
        f"not {type(support).__name__}",
    )


def read_folder(folder: Path, field: str = "support") -> SupportSet:
    """List a folder with one sub-folder for each class, both in the order of their names.

    Raises:
        InvalidInput: FOLDER_MISSING, FOLDER_LAYOUT (a file beside the class folders, a folder
            inside one, or a class twice), NO_EXAMPLES, NO_IMAGES or FILE_UNREADABLE, with its path.
    """
    if not os.path.isdir(folder):  # Path.is_dir fails for a name that is too long
        is_file = os.path.exists(folder)
        fault = "is a file, not a folder" if is_file else "does not exist"
        hint = "" if is_file else did_you_mean_file(folder)
        raise InvalidInput.single(
            field,
            "FOLDER_MISSING",
            f"{folder} {fault}; name a folder with one sub-folder of images for each class.{hint}",
        )
    try:
        files, faults = class_files(folder)
    except OSError as error:
        raise InvalidInput([unreadable(field, Path(error.filename), error)]) from error
    if faults:
        raise InvalidInput(
            [Violation(field, "FOLDER_LAYOUT", message, str(path)) for path, message in faults]
        )
    if not any(files.values()):
        message = f"{folder} holds no images; make a sub-folder of images for each class"
        raise InvalidInput.single(field, NO_CONTENT[field], message)
    return SupportSet(
        tuple(map(os.fsencode, files)),
        tuple(
            SupportExample(os.fsencode(label), path)
            for label, paths in files.items()
            for path in paths
        ),
    )


def read_contents(support: SupportSet) -> list[Content]:
    """Read the files of a support set.

    Raises:
        InvalidInput: FILE_UNREADABLE, for each such file.
    """
    contents: list[Content] = []
    bad: list[Violation] = []
    for index, example in enumerate(support.examples):
        try:
            contents.append((example.label, content(example.image, f"examples[{index}].image")))
        except InvalidInput as error:
            bad += error.violations
    if bad:
        raise InvalidInput(bad)
    return contents


def content(image: bytes | RawImage | Path, field: str) -> bytes | RawImage:
    """Return an image, read from its file if it is one.

    Raises:
        InvalidInput: FILE_UNREADABLE.
    """
    if not isinstance(image, Path):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise InvalidInput([unreadable(field, image, error)]) from error


def unreadable(field: str, path: Path, error: OSError) -> Violation:
    """Return FILE_UNREADABLE, with a suggestion if the file does not exist."""
    why = error.strerror or str(error)
    if not os.path.exists(path):
        why += did_you_mean_file(path).replace(" Did", ". Did")
    return Violation(field, "FILE_UNREADABLE", why, str(path))


def raw_images(value: Image, field: str) -> list[RawImage]:
    """Return the images of an array with 2, 3 or 4 axes.

    Raises:
        InvalidInput: TENSOR_FORM, for any other array.
    """
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise _no_image(value, field) from error
    axes = view.shape or ()
    if view.format not in FLOATS | {"B"} or not 2 <= len(axes) <= 4:
        raise InvalidInput.single(
            field,
            "TENSOR_FORM",
            "an array must be uint8, or float32 in 0..1, of shape (H, W, C), (H, W) or "
            f"(N, H, W, C); this one has buffer format {view.format!r} and shape {axes}",
        )
    is_float = view.format in FLOATS
    # an array with a side of 0 has no bytes; the server refuses it
    data = _little_endian_float32(view) if view.format == "d" else view.tobytes()
    if len(axes) < 4:
        return [RawImage(tuple(axes), is_float, data)]
    count, *shape = axes
    size = len(data) // count if count else 0
    return [RawImage(tuple(shape), is_float, data[size * i : size * (i + 1)]) for i in range(count)]


def image_list(images: object, field: str) -> Iterator[bytes | RawImage | Path]:
    """Yield each image, without reading files. A stacked array (N, H, W, C) counts as N images.

    Raises:
        InvalidInput: SUPPORT_FORM or TENSOR_FORM, with the index.
    """
    for index, image in enumerate(_images(images, field)):
        yield _example(b"", image, f"{field}[{index}]").image


def _from_mapping(support: Mapping[str, object]) -> SupportSet:
    classes: list[bytes] = []
    examples: list[SupportExample] = []
    for label, images in support.items():
        name = _label(label)
        classes.append(name)
        for image in _images(images, f"support[{label!r}]"):
            examples.append(_example(name, image, f"examples[{len(examples)}].image"))
    return SupportSet(tuple(classes), tuple(examples))


def _from_pairs(support: Iterable[object]) -> SupportSet:
    examples: list[SupportExample] = []
    for index, pair in enumerate(support):
        if not isinstance(pair, Sequence) or isinstance(pair, str | bytes) or len(pair) != 2:
            raise InvalidInput.single(
                f"examples[{index}]", "SUPPORT_FORM", "an example is a pair (class, image)"
            )
        examples.append(_example(_label(pair[0]), pair[1], f"examples[{index}].image"))
    return SupportSet(tuple(dict.fromkeys(e.label for e in examples)), tuple(examples))


def _images(images: object, field: str) -> Iterator[Image]:
    match images:
        case str() | os.PathLike() | bytes() | bytearray():
            raise InvalidInput.single(
                field, "SUPPORT_FORM", "several images are expected: put a single one in a list"
            )
        case Iterable() if not _is_buffer(images):
            yield from images
        case _:
            yield from raw_images(images, field)


def _example(label: bytes, image: Image, field: str) -> SupportExample:
    match image:
        case str() | os.PathLike():
            return SupportExample(label, Path(image))
        case bytes() | bytearray():
            return SupportExample(label, bytes(image))
        case RawImage():
            return SupportExample(label, image)
    raws = raw_images(image, field)
    if len(raws) != 1:
        message = f"the array has {len(raws)} images; give one image"
        raise InvalidInput.single(field, "TENSOR_FORM", message)
    return SupportExample(label, raws[0])


def _label(label: object) -> bytes:
    if isinstance(label, bytes):
        return label
    if isinstance(label, str):
        # surrogates stand for bytes of a file name that are not UTF-8; the server refuses them
        return label.encode("utf-8", "surrogateescape")
    raise InvalidInput.single(
        "classes", "LABEL_TYPE", f"a class name is text, not {type(label).__name__}: {label!r}"
    )


def _is_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _little_endian_float32(view: memoryview) -> bytes:
    return array.array("f", array.array("d", view.tobytes())).tobytes()


def _no_image(value: object, field: str) -> InvalidInput:
    return InvalidInput.single(
        field,
        "SUPPORT_FORM",
        "an image is a path, the bytes of an encoded image, or an array (a torch tensor becomes "
        f"one by .numpy()), not {type(value).__name__}",
    )
