"""Callers of a server in a process of their own; their figures are printed as JSON.

    python -m benchmarks.harness.callers ROLE ADDRESS TOKEN KEYWORDS

KEYWORDS is a JSON object. The process prints a line when it has begun, and ends when its work is
done or its standard input is closed. Times are seconds.
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from time import perf_counter, time_ns
from typing import Any

import grpc
from grpc import aio

from metanas_protos.v1 import adaptation_service_pb2 as messages
from metanas_protos.v1 import adaptation_service_pb2_grpc as stubs
from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationOptions
from tests.server.calls import Api, image, parts, refusal_of, spec, with_token
from tests.server.worst import KINDS

CHECKPOINT, WAYS, SIDE = "checkpoints/omniglot", 5, 28
MOST_STEPS, SHORT_SECONDS, THREADS = 500, 0.05, 64
SERVICE = "/metanas.v1.AdaptationService"
Figures = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Stubs:
    """Stubs of a server.

    waiting: of the event loop.
    uploading: of the threads; those of the event loop lose the reason of an upload that is refused
        while it is sent.
    """

    waiting: Any
    uploading: Any
    threads: ThreadPoolExecutor


def request(seed: int, steps: int = 0, seconds: float = 0) -> list[Any]:
    """Make the messages of a 5-way 1-shot adaptation.

    steps: steps of the search and of the tuning; 0 keeps the defaults.
    seconds: its deadline; 0 sets none.
    """
    options = AdaptationOptions(steps=steps, tuning_steps=steps, patience=0) if steps else None
    settings = spec(checkpoint=CHECKPOINT, seed=seed, options=options)
    if seconds:
        settings.deadline.FromMilliseconds(round(1000 * seconds))
    examples = (image(f"class {way}", seed * WAYS + way, SIDE) for way in range(WAYS))
    return list(parts(settings, examples))


def idle(address: str, token: str, *, connections: int) -> Figures:
    """Hold connections without a call."""
    alone = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.insecure_channel(address, alone) for _ in range(connections)]
    for channel in channels:
        grpc.channel_ready_future(channel).result()
    begun()
    sys.stdin.read()
    return [{"connections": len(channels)}]


def worst(address: str, token: str, *, kind: str) -> Figures:
    """Send the worst message of a kind, again and again."""
    (send,) = (each for each in KINDS if each.__name__ == kind)
    left = threading.Event()
    threading.Thread(target=lambda: left.set() if not sys.stdin.read() else None).start()
    with grpc.insecure_channel(address) as channel:
        api = Api(with_token(channel, token))
        begun()
        for sent in count():
            if left.is_set():
                return [{"sent": sent}]
            with suppress(grpc.RpcError):  # most are refused
                send(api)
    raise AssertionError


async def flood(
    address: str, token: str, *, number: int, rate: float, deadlines: Sequence[float] = (0,)
) -> Figures:
    """Start adaptations at a rate, whatever the answers are, and wait for the accepted ones.

    number: of all requests.
    deadlines: of the requests, in turn; 0 sets none.
    """
    limits = [deadlines[index % len(deadlines)] for index in range(number)]
    # Made before: otherwise the first ones would be late, and be sent all at once.
    requests = [request(index, seconds=deadline) for index, deadline in enumerate(limits)]
    async with connected(address) as stub:
        begun()
        start = perf_counter()

        async def one(index: int) -> Mapping[str, Any]:
            deadline = limits[index]
            await asyncio.sleep(max(0.0, start + index / rate - perf_counter()))
            figures = await create(stub, token, requests[index])
            if "name" in figures:
                return {**figures, **await ended(stub, token, figures["name"], deadline)}
            return figures

        return await asyncio.gather(*map(one, range(number)))


async def closed(address: str, token: str, *, tokens: Sequence[str], seconds: float) -> Figures:
    """Let a caller of each token adapt again and again; the server's clock times each."""
    async with connected(address) as stub:
        begun()
        latest = perf_counter() + seconds

        async def one(index: int, own: str) -> list[Mapping[str, Any]]:
            made = list[Mapping[str, Any]]()
            while perf_counter() < latest:
                figures = await create(stub, own, request(len(made) * len(tokens) + index))
                made.append(await ended(stub, own, figures["name"], 0))
            return made

        every = await asyncio.gather(*(one(*each) for each in enumerate(tokens)))
        return [figures for each in every for figures in each]


async def watch(
    address: str, token: str, *, jobs: int, watchers: int, connections: int, seconds: float
) -> Figures:
    """Watch long adaptations; the delay of each progress message from its time to its arrival."""
    async with connected(address) as stub:
        made = [await create(stub, token, request(job, steps=MOST_STEPS)) for job in range(jobs)]
        for each in made:
            await _until_step(stub, token, each["name"])
        channels = [_alone(address) for _ in range(connections)]
        arrivals = list[tuple[int, bytes]]()
        calls = [
            _raw(channels[index % connections], token, made[index % jobs]["name"])
            for index in range(watchers)
        ]
        reading = [asyncio.create_task(_read(call, arrivals)) for call in calls]
        for call in calls:
            await call.initial_metadata()
        begun()
        start = time_ns()
        await asyncio.sleep(seconds)
        while not arrivals or _time_of(arrivals[-1][1]) < start:
            await asyncio.sleep(SHORT_SECONDS)
        end = time_ns()
        for each in made:
            cancel = messages.CancelAdaptationRequest(name=each["name"])
            await stub.waiting.CancelAdaptation(cancel, metadata=identity(token))
        await asyncio.gather(*reading)
        await asyncio.gather(*(channel.close() for channel in channels))
    times = ((time, _time_of(raw)) for time, raw in arrivals)
    return [{"seconds": (time - then) / 1e9} for time, then in times if start <= then < end]


def _time_of(raw: bytes) -> int:
    """Return the time of a progress message; 0 for another message."""
    event = messages.WatchAdaptationResponse.FromString(raw)
    return event.progress.time.ToNanoseconds() if event.WhichOneof("event") == "progress" else 0


async def _until_step(stub: Stubs, token: str, name: str) -> None:
    """Wait until an adaptation takes steps."""
    call = stub.waiting.WatchAdaptation(_watching(name), metadata=identity(token))
    async for event in call:
        if event.progress.step:
            call.cancel()
            return


def _watching(name: str) -> messages.WatchAdaptationRequest:
    return messages.WatchAdaptationRequest(name=name)


def _alone(address: str) -> aio.Channel:
    return aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))


def _raw(channel: aio.Channel, token: str, name: str) -> Any:
    """Watch an adaptation without parsing: the messages are parsed when the figures are made."""
    serialize = messages.WatchAdaptationRequest.SerializeToString
    method: Any = channel.unary_stream(f"{SERVICE}/WatchAdaptation", serialize)
    return method(_watching(name), metadata=identity(token))


async def _read(call: Any, arrivals: list[tuple[int, bytes]]) -> None:
    async for raw in call:
        now = time_ns()
        arrivals.append((now, raw))


def identity(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call."""
    return (("authorization", f"Bearer {token}"),) if token else ()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Stubs]:
    """Connect before the first call, which would time the connection otherwise."""
    with ThreadPoolExecutor(THREADS) as threads, grpc.insecure_channel(address) as uploading:
        grpc.channel_ready_future(uploading).result()
        async with aio.insecure_channel(address) as waiting:
            await waiting.channel_ready()
            stub = stubs.AdaptationServiceStub
            yield Stubs(stub(waiting), stub(uploading), threads)


async def create(stub: Stubs, token: str, sent: Sequence[Any]) -> Mapping[str, Any]:
    """Start an adaptation; the seconds of the answer, and its name or the reason of its refusal."""

    def upload() -> Mapping[str, Any]:
        start = perf_counter()
        try:
            answer = stub.uploading.CreateAdaptation(iter(sent), metadata=identity(token))
        except grpc.RpcError as error:
            took, refusal = perf_counter() - start, refusal_of(error)
            return {"seconds": took, "reason": refusal.reason, "retry": refusal.retry_seconds}
        return {"seconds": perf_counter() - start, "name": answer.adaptation.name}

    return await asyncio.get_running_loop().run_in_executor(stub.threads, upload)


async def ended(stub: Stubs, token: str, name: str, deadline: float) -> Mapping[str, Any]:
    """Wait for the end; seconds until its start and its end, and whether that met the deadline."""
    call = stub.waiting.WatchAdaptation(_watching(name), metadata=identity(token))
    last: Adaptation = [event async for event in call][-1].adaptation
    created = last.create_time.ToNanoseconds()
    waited, whole = (
        (time.ToNanoseconds() - created) / 1e9 for time in (last.start_time, last.end_time)
    )
    met = bool(last.model) and (not deadline or whole <= deadline)
    return {"waited": waited, "whole": whole, "deadline": deadline, "met": met}


def begun() -> None:
    """Tell the process that has started this one."""
    print("begun", flush=True)


ROLES: Mapping[str, Callable[..., Figures | Awaitable[Figures]]] = {
    each.__name__: each for each in (idle, worst, flood, closed, watch)
}


def main(role: str, address: str, token: str, keywords: str) -> None:
    """Play a role and print its figures."""
    figures: Any = ROLES[role](address, token, **json.loads(keywords))
    if asyncio.iscoroutine(figures):
        figures = asyncio.run(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
