"""The blocking client's loop thread: iterators left unfinished, and misuse from its own thread."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from metanas_client.sync import LoopThread
from tests.client.conftest import ENVIRONMENT

HANG_SECONDS = 30  # only a test that would wait for ever meets it


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    opened = LoopThread()
    yield opened
    opened.stop()


class Cycle:
    """An object that only the garbage collector can free, and an iterator with it."""

    def __init__(self, iterator: Iterator[int]) -> None:
        self.iterator = iterator
        self.me = self


def test_an_iterator_collected_on_the_loop_thread_does_not_block_it(loop: LoopThread) -> None:
    closed = threading.Event()

    async def source() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    async def collect() -> int:
        return gc.collect()

    gc.disable()
    try:
        cycle = Cycle(loop.iterate(source))
        assert next(cycle.iterator) == 1
        del cycle
        # the wait has a limit: a deadlock fails this test, and the tests go on
        done = threading.Event()

        def run() -> None:
            loop.run(collect())
            done.set()

        threading.Thread(target=run, daemon=True).start()
        assert done.wait(HANG_SECONDS)
        assert closed.wait(HANG_SECONDS)
    finally:
        gc.enable()


def test_an_unfinished_iterator_does_not_block_the_end_of_the_interpreter() -> None:
    code = (
        "from metanas_client.sync import LoopThread\n"
        "async def source():\n"
        "    yield 1\n"
        "    yield 2\n"
        "iterator = LoopThread().iterate(source)\n"
        "print(next(iterator))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_waiting_on_the_loop_thread_is_refused(loop: LoopThread) -> None:
    async def inner() -> int:
        return 1

    async def outer() -> int:
        return loop.run(inner())

    with pytest.raises(RuntimeError, match="own thread"):
        loop.run(outer())


def test_an_iterator_may_outlive_its_loop() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        yield 2

    loop = LoopThread()
    iterator = loop.iterate(source)
    assert next(iterator) == 1
    loop.stop()
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)
