"""Long work in parts, so that a scheduler can do other work in between.

The work is a generator: it yields after each part, and returns the result.
"""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

Result = TypeVar("Result")
Parts = Generator[None, None, Result]
PAUSE = 0.01
"""Seconds that a part waits for a thread."""


def in_thread(function: Callable[[], Result]) -> Parts[Result]:
    """Call a function in a thread and return its result; other work goes on in between.

    If the parts are given up, the thread ends its work alone.
    """
    executor = ThreadPoolExecutor(1)
    try:
        work = executor.submit(function)
        while not work.done():
            yield
            wait((work,), PAUSE)
        return work.result()
    finally:
        executor.shutdown(wait=False)


def whole(parts: Parts[Result]) -> Result:
    """Do all parts and return the result."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result
