"""Optional dependencies: their absence becomes a sentence with the command that installs them."""

from collections.abc import Iterator
from contextlib import contextmanager

from metanas_client.errors import MissingExtra


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Put imports that belong to an extra inside; `MissingExtra` if one of them is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "unknown").partition(".")[0]
        if module == "metanas_client":  # a defect of ours, not an installation without the extra
            raise
        raise MissingExtra(extra, module) from error
