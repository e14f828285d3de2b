"""Long work in parts, so that a scheduler can do other work in between.

The work is a generator: it yields after each part, and returns the result.
"""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Parts = Generator[None, None, Result]


def whole(parts: Parts[Result]) -> Result:
    """Do all parts and return the result."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result
