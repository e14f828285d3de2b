"""Downloaded model: its bytes, its metadata, and predictions with it."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metanas_client.errors import NotWritable
from metanas_client.extras import needs
from metanas_client.resources import ModelInfo
from metanas_client.support import Image
from metanas_data.files import write_atomic

if TYPE_CHECKING:
    from metanas_client.onnx.model_file import ModelFile, Prediction


class Model:
    """Downloaded model: a self-contained ONNX file that takes images of any size."""

    onnx: bytes
    """The file, verified against the server's SHA-256."""
    info: ModelInfo

    def __init__(self, onnx: bytes, info: ModelInfo) -> None:
        self.onnx = onnx
        self.info = info

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {len(self.labels)} classes, {len(self.onnx)} bytes)"

    @property
    def name(self) -> str:
        """Name on the server."""
        return self.info.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes in the order of the outputs."""
        return self.info.labels

    @property
    def genotype(self) -> dict[str, list[list[list[object]]]]:
        """Cells by kind: for each node, its two [input index, operation] pairs."""
        return self.info.genotype

    @property
    def report(self) -> dict[str, object]:
        """Measurements of the adaptation."""
        return self.info.report

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ONNX file as a whole.

        Raises:
            NotWritable: it cannot be written there.
        """
        target = Path(path)
        write_atomically(target, self.onnx)
        return target

    def predict(self, images: Iterable[Image]) -> "list[Prediction]":
        """Classify images with ONNX Runtime, each independently of the others.

        Args:
            images: paths, encoded bytes or arrays (uint8 or float in 0..1; (H, W, C) or (H, W)), or
                one array (N, H, W, C). Sizes may differ.

        Raises:
            MissingExtra: the extra "onnx" is not installed.
            InvalidInput: an image that cannot be read, with its index.
        """
        return self._file.predict(images)

    @cached_property
    def _file(self) -> "ModelFile":
        with needs("onnx"):
            from metanas_client.onnx.model_file import ModelFile
        return ModelFile(self.onnx, source=self.name)


def write_atomically(target: Path, data: bytes) -> None:
    """Write a file as a whole. Readers never see a part of it.

    Raises:
        NotWritable: it cannot be written there.
    """
    try:
        write_atomic(target, data)
    except OSError as error:
        why = error.strerror or str(error)
        raise NotWritable("NOT_WRITABLE", f"cannot write {target}: {why}") from error
