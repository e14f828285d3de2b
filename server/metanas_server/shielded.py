"""Work that goes on if the task that waits for it is cancelled."""

import asyncio
import logging
from typing import TypeVar

from metanas.errors import MetanasError

LOG = logging.getLogger(__name__)
Value = TypeVar("Value")


async def shielded(work: "asyncio.Task[Value]") -> Value:
    """Wait for work, which goes on if this is cancelled.

    An error of the work has no reader then. After `asyncio.shield` alone the log would get the
    traceback of each refusal whose caller has left.
    """
    try:
        return await asyncio.shield(work)  # noqa: TID251 (here alone)
    except asyncio.CancelledError:
        work.add_done_callback(_read_error)
        raise


def _read_error(work: "asyncio.Task[Value]") -> None:
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, MetanasError):
        LOG.error("a defect in work whose caller has left", exc_info=error)
