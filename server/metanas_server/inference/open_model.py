"""A model that is open in ONNX Runtime: its description, its size in memory, its outputs."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metanas.errors import MAX_VIOLATIONS, InvalidInput, Violation
from metanas_data.decode import decode
from metanas_data.errors import ImageError
from metanas_data.limits import ImageLimits
from metanas_server.errors import StoreError
from metanas_server.inference.clock import Clock, Phase
from metanas_server.inference.query import Images, Outputs, Tensor

if TYPE_CHECKING:
    import onnxruntime

# Larger batches of one run save no time: the time of an image stays equal up to four images, and
# doubles from eight on, when the activations outgrow the cache (docs/performance.md).
RUN_IMAGES = 4
RUN_PIXELS = 2**20
"""Most pixels of a run of several images: ONNX Runtime needs some 35 bytes for each."""
DATATYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FP32"}
ONLY_ERRORS = 3  # severity scale of ONNX Runtime: 0 verbose to 4 fatal


class OpenModel:
    """A model in ONNX Runtime. Several threads may use it at once."""

    def __init__(self, data: bytes, digest: str) -> None:
        """Open a model.

        data: the ONNX file.
        digest: its SHA-256.

        Raises:
            StoreError: ARTEFACT_LOST, the file was changed.
        """
        if hashlib.sha256(data).hexdigest() != digest:
            message = f"the file {digest} is damaged; restore a backup or adapt again"
            raise StoreError("ARTEFACT_LOST", message)
        self._session = _session(data)
        (images,) = map(_tensor, self._session.get_inputs())
        self.images: Tensor = images
        self.outputs: tuple[Tensor, ...] = tuple(map(_tensor, self._session.get_outputs()))
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.labels: tuple[str, ...] = tuple(json.loads(metadata["metanas.labels"]))
        # Measured: 2.4 MiB for a file of 0.7 MiB, 20 MiB for a file of 16.5 MiB.
        self.size_bytes: int = len(data) * 5 // 4 + 3 * 2**19

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return self.images.shape[-1]

    def run(
        self, images: Images, names: Sequence[str], limits: ImageLimits, clock: Clock
    ) -> Outputs:
        """Return the values of these outputs for all images.

        Raises:
            InvalidInput: images that cannot be used, with their indices.
            TimedOut: QUERY_TIMEOUT.
        """
        rows: list[Sequence[NDArray[np.float32]]] = []
        for part in self._parts(images, limits, clock):
            clock.enter(Phase.INFER)
            rows.append(self._session.run(list(names), {self.images.name: part}))
        columns = zip(*rows, strict=True)
        return {name: np.concatenate(each) for name, each in zip(names, columns, strict=True)}

    def _parts(
        self, images: Images, limits: ImageLimits, clock: Clock
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield pixels (N, H, W, C), few at a time."""
        if isinstance(images, np.ndarray):
            _, height, width, _ = images.shape
            count = max(1, min(RUN_IMAGES, RUN_PIXELS // (height * width)))
            for start in range(0, len(images), count):
                yield images[start : start + count]
            return
        bad: list[Violation] = []
        for index, data in enumerate(images):
            clock.enter(Phase.INPUT)
            place = f"inputs[0][{index}]"
            try:
                pixels = decode(data, channels=self.channels, limits=limits, name=place)
            except ImageError as error:
                bad.append(Violation(place, error.reason, error.message))
                if len(bad) == MAX_VIOLATIONS:
                    break
                continue
            if not bad:
                yield pixels[None]
        if bad:
            raise InvalidInput(bad)


def _session(data: bytes) -> "onnxruntime.InferenceSession":
    # 1.31 and later send telemetry unless this is set before the import
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # here, since a server without queries starts faster without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # otherwise each session has threads of its own
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = ONLY_ERRORS
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _tensor(described: "onnxruntime.NodeArg") -> Tensor:
    shape = tuple(each if isinstance(each, int) else -1 for each in described.shape)
    return Tensor(name=described.name, datatype=DATATYPES[described.type], shape=shape)
