"""Many adaptations at once on one worker: none changes or ends another."""

import asyncio
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from grpc import aio
from numpy.typing import NDArray

from metanas.adaptation.job import AdaptedModel
from metanas.adaptation.scheduler import adapt
from metanas.checkpoint import load_checkpoint
from metanas.spec.examples import Example
from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from tests.server import crashing
from tests.server.calls import (
    CANCELLED,
    FAILED,
    LONG,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Answer,
    Api,
    create,
    end_of,
    image,
    images,
    picture,
    refused,
    spec,
)
from tests.server.crashing import CRASHING
from tests.server.processes import ServerProcess, serving

SOME = AdaptationOptions(steps=30)
CALLERS = 6


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-attempts=2", "--max-image-memory=100000000")


def labels(caller: int) -> tuple[str, ...]:
    """Names of a caller's classes; every caller has another number of them."""
    return tuple(f"{caller}-{way}" for way in range(2 + caller % 3))


def start(api: Api, count: int, options: AdaptationOptions = LONG) -> list[str]:
    """Create adaptations that run at the same time."""
    names = [api.create(spec(options=options, seed=i), images(seed=i)).name for i in range(count)]
    for name in names:
        api.until_running(name)
    return names


def cancel(api: Api, names: list[str]) -> None:
    for name in names:
        api.cancel(name)
    assert {api.end_of(name).state for name in names} == {CANCELLED}


def states(api: Api, names: list[str]) -> list[int]:
    return [api.get(name).state for name in names]


def test_every_caller_gets_the_model_of_its_own_images(api: Api) -> None:
    def adapt(caller: int) -> Answer:
        settings = spec(seed=caller, options=SOME)
        return api.adapt(settings, images(labels(caller), seed=100 * caller))

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(adapt, range(CALLERS)))
    assert len({answer.adaptation.name for answer in answers}) == CALLERS
    for caller, answer in enumerate(answers):
        assert tuple(answer.model.labels) == labels(caller)
        assert answer.events[0].adaptation.name == answer.adaptation.name
        assert answer.model.report.seed == caller
        steps = [each.progress for each in answer.events if each.progress.stage == "adapt"]
        assert [each.step for each in steps] == list(range(SOME.steps + 1))
        session = onnxruntime.InferenceSession(answer.onnx)
        assert session.get_outputs()[0].shape[-1] == len(labels(caller))


def test_a_stacked_adaptation_gives_the_model_of_the_same_call_in_process(
    api: Api, checkpoints: Path
) -> None:
    others = start(api, 3)
    support = images(("a", "b", "c"), seed=40)
    name = api.create(spec(seed=9, options=SOME), support).name
    ended = api.end_of(name)
    assert states(api, others) == [RUNNING] * 3
    cancel(api, others)
    theirs = b"".join(chunk.data for chunk in api.download(ended.model))
    ours = in_process(checkpoints / "grey", 9)
    assert json.loads(api.model(ended.model).genotype_json) == json.loads(ours.genotype.to_json())
    query = np.random.default_rng(7).integers(0, 256, (5, 12, 12, 1), dtype=np.uint8)
    # what is stacked with what depends on the clock, and Adam's first steps make rounding visible;
    # that stacks are exact is tested in double precision
    np.testing.assert_allclose(logits(theirs, query), logits(ours.onnx, query), atol=0.1)


def in_process(checkpoint: Path, seed: int) -> AdaptedModel:
    loaded = load_checkpoint(checkpoint)
    options = loaded.card.defaults.replace({"steps": SOME.steps})
    examples = [
        Example(
            each.label.decode(),
            np.frombuffer(each.tensor.data, np.uint8).reshape(tuple(each.tensor.shape)),
        )
        for each in images(("a", "b", "c"), seed=40)
    ]
    return adapt(loaded, examples, options=options, seed=seed)


def logits(onnx: bytes, query: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(onnx)
    logits: NDArray[Any] = session.run(["logits"], {session.get_inputs()[0].name: query})[0]
    return logits


def test_a_new_adaptation_starts_beside_running_ones(api: Api) -> None:
    """It begins and ends while the others run."""
    others = start(api, 2)
    newcomer = api.create(spec(), images())
    assert api.end_of(newcomer.name).state == SUCCEEDED
    assert states(api, others) == [RUNNING] * 2
    cancel(api, others)


def test_one_is_cancelled_and_the_others_go_on(api: Api) -> None:
    others = start(api, 3, SOME)
    (unwanted,) = start(api, 1)
    cancel(api, [unwanted])
    assert [api.end_of(name).state for name in others] == [SUCCEEDED] * 3
    assert [api.get(name).attempts for name in others] == [1] * 3


def test_one_that_runs_out_of_time_and_the_others_go_on(api: Api) -> None:
    (other,) = start(api, 1)
    limited = spec(options=LONG)
    limited.timeout.FromMilliseconds(300)
    assert api.failure(limited, images()).reason == "ADAPTATION_TIMEOUT"
    assert api.get(other).attempts == 1
    assert states(api, [other]) == [RUNNING]
    cancel(api, [other])


def test_an_unreadable_image_fails_its_own_adaptation_only(api: Api) -> None:
    others = start(api, 2)
    broken = image("b")
    broken.encoded = b"no image"
    (violation,) = api.failure(spec(), [image("a"), broken]).violations
    assert (violation.field, violation.reason) == ("examples[1].image", "IMAGE_FORMAT")
    assert states(api, others) == [RUNNING] * 2
    cancel(api, others)


def test_a_worker_that_dies_costs_none_of_its_jobs(server: ServerProcess, api: Api) -> None:
    names = start(api, 3, SOME)
    server.signal_workers(signal.SIGKILL)
    ended = [api.end_of(name) for name in names]
    assert [(each.state, each.attempts) for each in ended] == [(SUCCEEDED, 2)] * 3
    # one after the other, each with the worker to itself, in the order in which they came
    spans = [(e.start_time.ToNanoseconds(), e.end_time.ToNanoseconds()) for e in ended]
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_adaptations_share_the_memory_of_a_worker(api: Api) -> None:
    """51 MB each, of 100: the second waits for the first. 115 MB are refused, with the figure."""
    first = api.create(spec(options=LONG), [*images(), picture("a", 1000)]).name
    api.until_running(first)
    second = api.create(spec(), [*images(), picture("b", 1001)]).name
    small = api.create(spec(), images()).name
    answer = refused(api.create, spec(), [*images(), picture("b", 2400)])
    assert answer.violations == [("examples", "TOO_MUCH_MEMORY")]
    assert "a worker has 100000000" in answer.message
    assert states(api, [first, second, small]) == [RUNNING, QUEUED, QUEUED]
    cancel(api, [first])
    assert [api.end_of(name).state for name in (second, small)] == [SUCCEEDED] * 2


@pytest.fixture
def impatient(checkpoints: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that gives a worker half a second to stop a job, and three seconds of silence."""
    flags = ("--max-attempts=2", "--stop-seconds=0.5", "--max-silence=3")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        yield server


def test_a_worker_that_is_killed_because_of_one_job_costs_the_others_nothing(
    impatient: ServerProcess,
) -> None:
    """Two attempts are allowed, so two lost attempts would end the others."""
    server, api = impatient, impatient.api
    others = start(api, 2)
    for attempt in (1, 2, 3):
        for name in others:
            next(event for event in api.watch(name) if event.progress.attempt == attempt)
        (hanging,) = start(api, 1)
        server.signal_workers(signal.SIGSTOP)
        api.cancel(hanging)
        assert api.end_of(hanging).state == CANCELLED
    cancel(api, others)


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
def test_a_worker_that_hangs_is_replaced(impatient: ServerProcess, busy: bool) -> None:
    server, api = impatient, impatient.api
    api.serves()
    names = start(api, 2, SOME) if busy else []
    before = server.workers()
    server.signal_workers(signal.SIGSTOP)
    while set(server.workers()) & set(before):
        time.sleep(0.1)
    assert [api.end_of(name).state for name in names] == [SUCCEEDED] * len(names)
    api.serves()


def test_workers_share_the_jobs_and_the_rest_wait(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data", "--devices=cpu,cpu", "--max-stack=2") as server:
        api = server.api
        names = start(api, 4)
        waiting = api.create(spec(), images()).name
        assert states(api, [*names, waiting]) == [RUNNING] * 4 + [QUEUED]
        cancel(api, names[3:])
        assert api.end_of(waiting).state == SUCCEEDED
        cancel(api, names[2:3])
        # one each: the death of a worker is noticed by one of them
        os.kill(server.workers()[0], signal.SIGKILL)
        lost = next_attempt(api, names[:2])
        assert [api.get(name).attempts for name in names[:2] if name != lost] == [1]
        cancel(api, names[:2])


def next_attempt(api: Api, names: list[str]) -> str:
    """Return the first of these adaptations that starts again."""
    while True:
        for name in names:
            if api.get(name).attempts > 1:
                return name
        time.sleep(0.1)


async def test_an_adaptation_that_crashes_its_workers_fails_alone(
    checkpoints: Path, tmp_path: Path
) -> None:
    """The other adaptations succeed, even with one attempt each."""
    shutil.copytree(checkpoints, tmp_path / "checkpoints")
    shutil.copytree(checkpoints / "grey", tmp_path / "checkpoints" / CRASHING)
    config = ServerConfig(
        checkpoints=tmp_path / "checkpoints",
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",),
        threads=1,
        max_attempts=1,
    )
    requests = [spec(seed=seed, options=SOME) for seed in range(3)]
    requests.append(spec(checkpoint=f"checkpoints/{CRASHING}"))
    async with (
        Server(config, load=crashing.load) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        names = [await create(channel, each, images()) for each in requests]
        ends = await asyncio.gather(*(end_of(channel, name) for name in names))
    assert [each.state for each in ends] == [SUCCEEDED] * 3 + [FAILED]
    assert ends[-1].failure.reason == "WORKER_LOST"
    assert max(each.attempts for each in ends) <= 3  # beside 4, 2 and 1
