"""ONNX Runtime without torch: open a model, and run it on images."""

import os
from collections.abc import Sequence

# ONNX Runtime 1.31 and later sends telemetry unless this is set before its import
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def session(onnx_bytes: bytes) -> ort.InferenceSession:
    """Open a session with one thread and without a memory arena."""
    return ort.InferenceSession(onnx_bytes, session_options(), providers=["CPUExecutionProvider"])


def session_options() -> ort.SessionOptions:
    """Return options for one thread, no memory arena and no warnings."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options


def run(model: ort.InferenceSession, images: Sequence[Image]) -> NDArray[np.float32]:
    """Return logits (N, ways) of uint8 images (H, W, C) of any sizes, one after the other."""
    return np.concatenate([logits_of(model, image[None]) for image in images])


def logits_of(model: ort.InferenceSession, images: Image) -> NDArray[np.float32]:
    """Return logits (N, ways) of uint8 images (N, H, W, C)."""
    logits: NDArray[np.float32] = model.run(["logits"], {"images": images})[0]
    return logits
