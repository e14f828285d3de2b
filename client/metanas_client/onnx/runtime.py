"""Sessions of ONNX Runtime for files of unknown origin."""

import os
from contextlib import suppress
from functools import cache

# ONNX Runtime 1.31 and later sends telemetry unless this is set before its import
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from metanas_client.errors import ModelFileError
from metanas_client.onnx.scan import check_bytes

MOST_MEMORY = 2**32
"""Most bytes that all models of a process may allocate in ONNX Runtime. The largest image, of 50
million pixels, needs 1.8 GB."""
SILENT = 4  # severity scale of ONNX Runtime: 0 verbose to 4 fatal; errors are raised


def open_session(data: bytes, source: str) -> onnxruntime.InferenceSession:
    """Open a file with one thread and bounded memory.

    Raises:
        ModelFileError: MODEL_UNREADABLE.
    """
    try:
        check_bytes(data)
    except ValueError as error:
        message = f"{source} is not a model of MetaNAS: {error}"
        raise ModelFileError("MODEL_UNREADABLE", message) from error
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise runtime_error(source, "cannot be loaded by", error) from error


@cache
def _limit_memory() -> None:
    """Limit the memory of ONNX Runtime, which has one shared allocator a process.

    A hostile file may ask for any amount. A program that has registered its own allocator keeps it.
    """
    kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1])
    with suppress(Exception):  # its errors have no common class
        limits = onnxruntime.OrtArenaCfg(MOST_MEMORY, -1, -1, -1)
        onnxruntime.create_and_register_allocator(memory, limits)


def runtime_error(source: str, what: str, error: Exception) -> ModelFileError:
    """Return the error of a file that ONNX Runtime refuses; its own errors have no common class."""
    cause = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    return ModelFileError("MODEL_UNREADABLE", f"{source} {what} ONNX Runtime: {cause}")
