"""Takes in a support set example by example, and refuses it as soon as it is too large."""

from collections import Counter
from collections.abc import Sequence
from typing import Self

from metanas.errors import MAX_VIOLATIONS, InvalidInput, Violation
from metanas.spec.examples import Example, Limits, check_examples
from metanas_server.errors import Overloaded


class UploadBudget:
    """The budget of bytes that all uploads under way share."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    def take(self, size: int) -> None:
        """Take this many bytes.

        Raises:
            Overloaded: UPLOADS_FULL.
        """
        if self._used + size > self._limit:
            raise Overloaded("UPLOADS_FULL", "too many uploads are under way; try again shortly")
        self._used += size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._used -= size


class Intake:
    """The support set of one request while it arrives.

    What makes it too large is refused at once, before the rest is received; everything else is
    found at the end, all together. Use it as a context manager: leaving gives the bytes back.
    """

    def __init__(self, limits: Limits, budget: UploadBudget) -> None:
        self._limits = limits
        self._budget = budget
        self._examples = list[Example]()
        self._shots = Counter[str]()
        self._bad = list[Violation]()
        self._bytes = 0
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._bytes)

    @property
    def count(self) -> int:
        """The number of examples so far, good or bad: the index of the next one."""
        return self._count

    def add(self, example: Example) -> None:
        """Take an example.

        Raises:
            InvalidInput: TOO_MANY_EXAMPLES, TOO_MANY_WAYS, TOO_MANY_SHOTS, TOO_MANY_BYTES.
            Overloaded: UPLOADS_FULL.
        """
        size = len(example.image) if isinstance(example.image, bytes) else example.image.nbytes
        self._count += 1
        self._shots[example.label] += 1
        self._check_growth(example.label, size)
        self._budget.take(size)
        self._bytes += size
        self._examples.append(example)

    def reject(self, error: InvalidInput) -> None:
        """Note what is wrong with an example that could not even be read.

        Raises:
            InvalidInput: when there are so many that more would not help anybody.
        """
        self._count += 1
        self._bad += error.violations
        if len(self._bad) >= MAX_VIOLATIONS or self._count > self._limits.max_examples:
            raise InvalidInput(self._bad)

    def finish(self, classes: Sequence[str] | None) -> tuple[Example, ...]:
        """The complete support set.

        Raises:
            InvalidInput: everything that is wrong with it.
        """
        if self._bad:
            raise InvalidInput(self._bad)
        check_examples(self._examples, self._limits, classes)
        return tuple(self._examples)

    def _check_growth(self, label: str, size: int) -> None:
        limits = self._limits
        grown = (
            ("TOO_MANY_EXAMPLES", "examples", self._count, limits.max_examples),
            ("TOO_MANY_WAYS", "classes", len(self._shots), limits.max_ways),
            ("TOO_MANY_SHOTS", "examples of one class", self._shots[label], limits.max_shots),
            ("TOO_MANY_BYTES", "bytes of images", self._bytes + size, limits.max_total_bytes),
        )
        for reason, what, number, limit in grown:
            if number > limit:
                message = f"there are more than {limit} {what}; send fewer"
                raise InvalidInput.single(f"examples[{self._count - 1}]", reason, message)
