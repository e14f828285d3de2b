"""The watchdog of the event loop: measures its lag and takes a snapshot at each beat."""

import asyncio
import logging
import time
from collections.abc import Callable

from metanas_server.observation.metrics import Metrics
from metanas_server.observation.snapshot import Figures, Snapshot

LOG = logging.getLogger(__name__)
BEAT_SECONDS = 0.25
LONG_LAG_SECONDS = 1.0
"""A longer lag is logged."""


async def watch(metrics: Metrics, figures: Figures, snapshot: Callable[[], Snapshot]) -> None:
    """Measure the loop's lag and update the figures, until the task is cancelled."""
    while True:
        figures.snapshot = snapshot()
        figures.due = time.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        lag = max(0.0, time.monotonic() - figures.due)
        metrics.lag(lag)
        if lag > LONG_LAG_SECONDS:
            LOG.warning("the event loop was blocked for %.1f s; no call was answered", lag)
