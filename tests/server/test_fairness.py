"""One caller cannot lock out another: quotas, turns in the queue, and times for the retry."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from metanas_protos.v1.model_service_pb2 import DeleteModelRequest, UpdateModelRequest
from metanas_server.api.service import ModelService
from metanas_server.callers import tokens
from metanas_server.callers.access import Callers
from metanas_server.callers.shares import SECONDS, Shares
from metanas_server.callers.tokens import Role
from metanas_server.config import ServerConfig
from metanas_server.records.address import DATABASE
from metanas_server.resources import State
from metanas_server.storage.archive import open_archive
from tests.server.calls import LONG, QUEUED, SUCCEEDED, Api, images, refused, spec
from tests.server.processes import serving
from tests.server.test_parts import MODEL, RECORD


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


def test_a_caller_leaves_the_places_of_others(checkpoints: Path, tmp_path: Path) -> None:
    """Places that are free for the moment are not filled by a caller who has more than others."""
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    with serving(checkpoints, tmp_path / "data", "--token-file", str(path), "--max-stack=4") as (
        server
    ):
        greedy, modest = server.api_of(one), server.api_of(two)
        theirs = [greedy.create(spec(options=LONG, seed=i), images()).name for i in range(6)]
        for name in theirs[:4]:
            greedy.until_running(name)
        mine = [modest.create(spec(options=LONG), images()).name]
        for name in theirs[:2]:
            greedy.cancel(name)
        modest.until_running(mine[0])
        mine.append(modest.create(spec(options=LONG, seed=1), images()).name)
        modest.until_running(mine[1])
        assert [greedy.get(name).state for name in theirs[4:]] == [QUEUED] * 2
        for name in mine:
            modest.cancel(name)
        for name in theirs[4:]:
            greedy.until_running(name)


def test_shares_of_callers() -> None:
    now = [0.0]
    shares = Shares(lambda: now[0])
    assert shares.most(Counter({"one": 64}), 1) is None
    assert shares.most(Counter({"one": 64, "two": 5}), 1) == 5
    assert shares.most(Counter({"one": 64, "two": 5}), 2) == 3
    assert shares.most(Counter({"one": 64, "two": 1}), 4) == 1
    shares.ended("two")
    now[0] = SECONDS / 2
    assert shares.most(Counter({"one": 64}), 1) == 1
    now[0] = SECONDS
    assert shares.most(Counter({"one": 64}), 1) is None


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


class Context:
    """The part of a call's context that tells the address of the caller."""

    def __init__(self, host: str) -> None:
        self._host = host

    def peer(self) -> str:
        return f"ipv4:{self._host}:1"


async def test_changes_of_models_take_turns(tmp_path: Path) -> None:
    async def nothing() -> None:
        pass

    archive = open_archive(tmp_path, tmp_path / DATABASE, nothing)
    record = await archive.add(replace(RECORD, id="x"), (b"support",))
    ended = replace(record, state=State.SUCCEEDED, end_time=1, support="", model="x")
    report = '{"genotype": {}, "seconds": {}, "architecture": {}}'
    await archive.finish(ended, (), replace(MODEL, id="x", report_json=report), b"onnx")
    service, order = ModelService(ServerConfig(), Callers(None), archive), list[str]()

    async def call(host: str, method: Any, request: Any) -> None:
        await method(request, Context(host))
        order.append(host)

    change = UpdateModelRequest(name="models/x", share_with=["bob"])
    calls = [call("greedy", service.UpdateModel, change) for _ in range(20)]
    calls += [call("other", service.UpdateModel, change)]
    calls += [call("third", service.DeleteModel, DeleteModelRequest(name="models/x"))]
    await asyncio.gather(*calls, return_exceptions=True)  # those after the deletion fail
    await archive.close()
    assert order == ["greedy", "greedy", "other", "third"]
