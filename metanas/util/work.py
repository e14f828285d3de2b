"""Long work in parts, so that whoever does it can turn to something else in between.

Such work is a generator: it yields when a part is done, and returns the result of the whole.
"""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")
Parts = Generator[None, None, Result]


def whole(parts: Parts[Result]) -> Result:
    """The result, with all parts done one after the other."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result
