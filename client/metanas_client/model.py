"""Downloaded or loaded model: its bytes, its metadata, predictions and tests with it."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metanas_client.errors import ModelFileError, NotWritable
from metanas_client.extras import needs
from metanas_client.resources import ModelInfo, Option
from metanas_client.support import Image, Support
from metanas_data.files import write_atomic
from metanas_data.report import Report

if TYPE_CHECKING:
    from metanas_client.onnx.model_file import ModelFile, Prediction
    from metanas_client.quality.quality import Quality


class Model:
    """Model: a self-contained ONNX file that takes images of any size."""

    onnx: bytes
    """The file; a downloaded one is verified against the server's SHA-256."""
    info: ModelInfo

    def __init__(self, onnx: bytes, info: ModelInfo) -> None:
        self.onnx = onnx
        self.info = info

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {len(self.labels)} classes, {len(self.onnx)} bytes)"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Model":
        """Read a file that `save` or `metanas adapt` wrote.

        Its `info` has what the file contains: no adaptation, no report and no time.

        Raises:
            MissingExtra: the extra "onnx" is not installed.
            ModelFileError: MODEL_MISSING, MODEL_UNREADABLE, MODEL_FOREIGN, METADATA_MALFORMED or
                GENOTYPE_MALFORMED.
        """
        with needs("onnx"):
            from metanas_client.onnx.model_file import ModelFile, read_model
        onnx = read_model(path)
        file = ModelFile(onnx, source=os.fspath(path))
        _ = file.cells  # `ModelInfo.genotype` reads them later
        info = ModelInfo(
            name=os.fspath(path),
            adaptation="",
            checkpoint=file.text("checkpoint"),
            sha256=hashlib.sha256(onnx).hexdigest(),
            size=len(onnx),
            labels=file.labels,
            genotype_json=file.text("genotype"),
            report=None,
            create_time=None,
        )
        return cls(onnx, info)

    @property
    def name(self) -> str:
        """Name on the server, or path of the file; empty for one made in this process."""
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
    def report(self) -> Report:
        """Estimates of the quality, and measurements of the adaptation.

        Raises:
            ModelFileError: REPORT_MISSING; the model was read from a file, which has no report.
        """
        if self.info.report is None:
            message = f"{self.name} has no report: a file does not contain it; ask the server"
            raise ModelFileError("REPORT_MISSING", message)
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

    def test(self, images: Support) -> "Quality":
        """Measure the model on held-out images with ONNX Runtime.

        Args:
            images: a folder with one sub-folder for each class, class -> images, or (class, image)
                pairs. Images that cannot be read are listed in the result.

        Raises:
            MissingExtra: the extra "onnx" is not installed.
            InvalidInput: CLASS_UNKNOWN for classes that the model lacks, NO_IMAGES, or all images
                are unusable.
        """
        with needs("onnx"):
            from metanas_client.quality.quality import measure_quality
        return measure_quality(self._file, self.name, images)

    def _repr_html_(self) -> str:
        """Show the facts and the cells in a notebook."""
        from metanas_client.notebook import model_html

        return model_html(self)

    @cached_property
    def _file(self) -> "ModelFile":
        with needs("onnx"):
            from metanas_client.onnx.model_file import ModelFile
        return ModelFile(self.onnx, source=self.name)


def cheaper(options: Mapping[str, Option], model: Model) -> dict[str, Option]:
    """Return the options of a model with at most half of the multiply-adds of this one."""
    return {**options, "max_macs": max(1, model.report.macs // 2)}


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
