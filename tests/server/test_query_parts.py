"""Parts of the query service: turns of callers, open models, the clock, and faults of files."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_server.api.upload import UploadBudget
from metanas_server.callers.turns import Turns
from metanas_server.errors import Overloaded, TimedOut
from metanas_server.inference.clock import Clock, Phase
from metanas_server.inference.model_cache import ModelCache
from metanas_server.inference.open_model import OpenModel
from metanas_server.storage.artefacts import sha256
from tests.server.calls import LONG, Api, images, spec
from tests.server.processes import ServerProcess, serving
from tests.server.queries import Queries, adapted, pixels, raw_query


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-open-bytes=1", "--query-threads=1")


@pytest.fixture(scope="module")
def model(api: Api) -> tuple[str, bytes]:
    """The id of a model, and its file."""
    return adapted(api)


async def test_callers_take_turns() -> None:
    turns, order = Turns(1), list[str]()
    await turns.enter("first")

    async def work(caller: str) -> None:
        await turns.enter(caller)
        order.append(caller)
        turns.leave()

    waiting = [asyncio.create_task(work(caller)) for caller in ("a", "a", "a", "b", "c")]
    await asyncio.sleep(0)
    turns.leave()
    await asyncio.gather(*waiting)
    assert order == ["a", "b", "c", "a", "a"]


async def test_a_place_outlives_those_who_stopped_waiting() -> None:
    turns = Turns(1)
    await turns.enter("a")
    gone = [asyncio.create_task(turns.enter(caller)) for caller in ("a", "b", "b")]
    await asyncio.sleep(0)
    gone[0].cancel()
    gone[1].cancel()
    await asyncio.sleep(0)
    turns.leave()  # to gone[2], which stops waiting at the same moment
    gone[2].cancel()
    results = await asyncio.gather(*gone, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in results)
    async with asyncio.timeout(10):
        await turns.enter("c")


async def test_open_models_stay_within_the_bytes(model: tuple[str, bytes]) -> None:
    opened = OpenModel(model[1], sha256((model[1],)))
    cache, loads = ModelCache(2 * opened.size_bytes), list[str]()

    async def get(digest: str) -> None:
        async def load() -> OpenModel:
            loads.append(digest)
            await asyncio.sleep(0)
            return opened

        assert await cache.get(digest, load) is opened

    await asyncio.gather(*(get("a") for _ in range(3)))
    assert loads == ["a"]
    for digest in ("b", "a", "c", "a"):
        await get(digest)
    assert loads == ["a", "b", "c"]
    assert [cache.size(digest) > 0 for digest in "abc"] == [True, False, True]
    cache.close("a")
    await get("b")
    await get("c")
    assert loads == ["a", "b", "c", "b"]


async def test_a_load_that_fails_is_tried_again(model: tuple[str, bytes]) -> None:
    cache = ModelCache(2**30)
    opened = OpenModel(model[1], sha256((model[1],)))

    async def fail() -> OpenModel:
        raise TimedOut("QUERY_TIMEOUT", "for the test")

    async def load() -> OpenModel:
        return opened

    with pytest.raises(TimedOut):
        await cache.get("a", fail)
    assert await cache.get("a", load) is opened


async def test_a_caller_that_leaves_does_not_stop_a_load(model: tuple[str, bytes]) -> None:
    cache, may_end = ModelCache(2**30), asyncio.Event()
    opened = OpenModel(model[1], sha256((model[1],)))

    async def load() -> OpenModel:
        await may_end.wait()
        return opened

    first, second = (asyncio.create_task(cache.get("a", load)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    may_end.set()
    assert await second is opened


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_query_stops_at_its_next_phase(cancelled: bool) -> None:
    clock = Clock(1000 if cancelled else 1e-9)
    if cancelled:
        clock.cancel()
    with pytest.raises(TimedOut) as caught:
        clock.enter(Phase.INPUT)
    assert caught.value.reason == "QUERY_TIMEOUT"


def test_the_budget_of_queries() -> None:
    budget = UploadBudget(100, 60, 2, noun="queries")
    with budget.hold("a", 40):
        with pytest.raises(Overloaded) as caught, budget.hold("a", 30):
            pass
        with budget.hold("a", 20):
            with pytest.raises(Overloaded), budget.hold("a", 0):
                pass
            with budget.hold("b", 40), pytest.raises(Overloaded), budget.hold("c", 1):
                pass
    assert caught.value.reason == "QUERIES_FULL"
    with budget.hold("a", 60):
        pass


def test_models_that_never_fit_answer_too(server: ServerProcess, model: tuple[str, bytes]) -> None:
    queries = Queries(server.channel)
    for _ in range(3):
        assert queries.infer(raw_query(model[0], pixels())).outputs


def test_readiness_follows_the_server(checkpoints: Path, tmp_path: Path) -> None:
    """Queries need no worker; a server that stops is not ready."""
    with serving(checkpoints, tmp_path / "data", "--grace=60") as server:
        health = server.health("inference.GRPCInferenceService")
        assert next(health) == HealthCheckResponse.SERVING
        name = server.api.create(spec(options=LONG), images()).name
        server.api.until_running(name)
        stub = Queries(server.channel).stub
        assert stub.ServerReady(protocol.ServerReadyRequest()).ready
        server.process.terminate()
        assert next(health) == HealthCheckResponse.NOT_SERVING
        assert not stub.ServerReady(protocol.ServerReadyRequest()).ready
        server.kill()


def test_a_damaged_file_answers_nothing(server: ServerProcess, api: Api, data: Path) -> None:
    name, onnx = adapted(api, seed=6)
    path = data / "artefacts" / sha256((onnx,))
    queries, query = Queries(server.channel), raw_query(name, pixels())
    for content in (onnx[:-1] + b"x", onnx[:100], b""):
        path.write_bytes(content)
        answer = queries.refusal(query)
        assert (answer.code, answer.reason) == (grpc.StatusCode.DATA_LOSS, "ARTEFACT_DAMAGED")
    path.unlink()
    assert queries.refusal(query).reason == "ARTEFACT_LOST"
    path.write_bytes(onnx)
    assert queries.infer(query).outputs
