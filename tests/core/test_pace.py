"""The number of threads follows what steps take."""

from hypothesis import given
from hypothesis import strategies as st

from metanas.pace import LAST_TRIAL, Pace

Machine = dict[int, float]
"""Seconds of a step by its number of threads."""


def run(pace: Pace, machine: Machine, steps: int, work: int = 1) -> list[int]:
    chosen = []
    for _ in range(steps):
        threads = pace.choose()
        pace.took(threads, work, machine[threads] * work)
        chosen.append(threads)
    return chosen


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.integers(1, 100))
def test_the_faster_choice_wins(one: float, several: float, work: int) -> None:
    chosen = run(Pace(2), {1: one, 2: several}, 200, work)
    best = 1 if one <= several else 2
    assert chosen.count(best) >= 190


def test_company_on_the_other_core_is_noticed_at_once_and_its_end_later() -> None:
    free, busy = {1: 1.0, 2: 0.6}, {1: 1.0, 2: 30.0}
    pace = Pace(2)
    assert run(pace, free, 20)[-1] == 2
    # one slow step, and a few trials, each twice as long after the one before
    assert run(pace, busy, 500).count(2) <= 8
    assert run(pace, free, LAST_TRIAL + 20)[-1] == 2


def test_a_single_thread_leaves_no_choice() -> None:
    assert set(run(Pace(1), {1: 1.0}, 50)) == {1}
