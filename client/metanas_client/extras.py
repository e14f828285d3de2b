"""Optional dependencies: a missing one raises an error with the command that installs it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from metanas_client.errors import MissingExtra

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wrap the imports of an extra. A missing package raises `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "unknown").partition(".")[0]
        if module == "metanas_client":  # a defect, not a missing extra
            raise
        raise MissingExtra(extra, module) from error


def warn_of_two_runtimes() -> None:
    """Warn if onnxruntime and onnxruntime-gpu are both installed, which pip cannot exclude."""
    installed = [name for name in RUNTIMES if _installed(name)]
    if len(installed) > 1:
        warnings.warn(
            f"{' and '.join(installed)} are both installed and overwrite each other's files. "
            "Uninstall both with pip, then install metanas-client[onnx] or "
            "metanas-client[onnx-gpu].",
            stacklevel=2,
        )


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
