"""How many threads the steps of stacks run with, learned from how long they take."""

FIRST_TRIAL = 8
"""Steps after which the slower choice is tried again; twice as many each time it loses again."""
LAST_TRIAL = 512
"""Most steps between two trials."""
SLOWER = 1.5
"""A step that takes so many times the one before has the other choice tried at once."""


class Pace:
    """Chooses between one thread and several by what earlier steps took.

    On two free cores a second thread takes a quarter off a step of 16 tasks. Where another process
    holds one of the cores, each of the thousands of small operations waits for its turn there, and
    a step took thirty times as long (both measured). Nothing tells beforehand which it will be.
    """

    def __init__(self, most: int) -> None:
        self._choices = (1, most)
        self._rates = dict.fromkeys(self._choices, float("inf"))
        self._favourite = 1
        self._interval = FIRST_TRIAL
        self._left = 1

    def choose(self) -> int:
        """Threads for the next step."""
        return self._other if self._left == 0 else self._favourite

    def took(self, threads: int, work: int, seconds: float) -> None:
        """Take note of a step; `work` is anything that its time is proportional to."""
        rate = seconds / work
        before, self._rates[threads] = self._rates[threads], rate
        if threads != self._favourite:
            self._judge()
        elif rate > SLOWER * before:
            self._left = 0
        else:
            self._left = max(0, self._left - 1)

    @property
    def _other(self) -> int:
        one, several = self._choices
        return several if self._favourite == one else one

    def _judge(self) -> None:
        if self._rates[self._other] < self._rates[self._favourite]:
            self._favourite, self._interval = self._other, FIRST_TRIAL
        else:
            self._interval = min(2 * self._interval, LAST_TRIAL)
        self._left = self._interval
