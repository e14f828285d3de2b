"""Work that goes on when its caller leaves: a refusal leaves no traceback, a defect does."""

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import pytest

from metanas_server.errors import NotFound
from metanas_server.records.address import DATABASE
from metanas_server.shielded import shielded
from metanas_server.storage.archive import open_archive


async def test_a_refusal_whose_caller_has_left_leaves_no_traceback(tmp_path: Path) -> None:
    async def nothing() -> None:
        pass

    faults = list[dict[str, Any]]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    archive = open_archive(tmp_path, tmp_path / DATABASE, nothing)
    deletion = loop.create_task(archive.delete_model("none", None))
    await asyncio.sleep(0)  # it has begun
    deletion.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deletion
    with pytest.raises(NotFound):
        await archive.delete_model("none", None)
    await archive.close()
    gc.collect()
    assert faults == []


async def test_a_defect_whose_caller_has_left_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    task = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(shielded(task))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((task, waiting))
    await asyncio.sleep(0)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
