"""One caller cannot lock out another: quotas, turns in the queue, and times for the retry."""

from pathlib import Path

from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import LONG, SUCCEEDED, Api, images, refused, spec
from tests.server.processes import serving


def test_callers_take_turns(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    flags = ("--token-file", str(path), "--max-stack=1", "--max-jobs-per-caller=4")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        greedy, modest = server.api_of(one), server.api_of(two)
        first = greedy.create(spec(options=LONG), images()).name
        greedy.until_running(first)
        waiting = [greedy.create(spec(seed=seed), images()).name for seed in range(3)]
        answer = refused(greedy.create, spec(), images())
        assert answer.reason == "CALLER_QUOTA"
        assert answer.retry_seconds
        late = modest.create(spec(), images()).name
        greedy.cancel(first)
        mine = modest.end_of(late)
        theirs = [greedy.end_of(name) for name in waiting]
        assert {each.state for each in (mine, *theirs)} == {SUCCEEDED}
        starts = [each.start_time.ToNanoseconds() for each in (theirs[0], mine, *theirs[1:])]
        assert starts == sorted(starts)  # the second of one caller waits for the first of the other


def test_priorities_order_the_work_of_one_caller_only(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    with serving(checkpoints, tmp_path / "data", "--token-file", str(path), "--max-stack=1") as (
        server
    ):
        urgent, modest = server.api_of(one), server.api_of(two)
        first = modest.create(spec(options=LONG), images()).name
        modest.until_running(first)
        theirs = [modest.create(spec(seed=seed), images()).name for seed in (1, 2)]
        mine = [
            urgent.create(spec(seed=seed, priority=seed), images()).name for seed in (0, 9, 4, 9)
        ]
        modest.cancel(first)
        starts = {
            api.end_of(name).start_time.ToNanoseconds(): name
            for api, names in ((urgent, mine), (modest, theirs))
            for name in names
        }
        order = [starts[time] for time in sorted(starts)]
        assert [name for name in order if name in mine] == [mine[i] for i in (1, 3, 2, 0)]
        # Two turns of each come before the third turn of the caller with priorities.
        assert set(order[:4]) == {*theirs, mine[1], mine[3]}


def test_a_priority_out_of_range(api: Api) -> None:
    answer = refused(api.create, spec(priority=10), images())
    assert answer.reason == "PRIORITY_INVALID"
