"""A server under mixed load whose processes are killed at random: no accepted job is lost.

`make soak` runs longer: METANAS_SOAK is the number of seconds, METANAS_SOAK_SEED the seed. With
METANAS_SOAK_FRONTS=2 two servers share a PostgreSQL, which is killed, too.
"""

import hashlib
import os
import signal
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import pytest

from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationOptions, AdaptationSpec
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    ListAdaptationsRequest,
)
from metanas_protos.v1.example_pb2 import Example
from tests.server.calls import CANCELLED, SUCCEEDED, Api, images, spec
from tests.server.databases import Postgres, free_port, running_postgres
from tests.server.processes import ServerProcess, serving

SECONDS = float(os.environ.get("METANAS_SOAK", "20"))
SEED = int(os.environ.get("METANAS_SOAK_SEED", "0"))
FRONTS = int(os.environ.get("METANAS_SOAK_FRONTS", "1"))
CALLERS = 4
PAUSE = 5.0
"""Mean seconds between two kills."""
RETRY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclass
class Book:
    """The acknowledged jobs: name by request id, and those that were cancelled."""

    accepted: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)


def call(addresses: list[str], book: Book, random: Random, stop: threading.Event) -> None:
    """Send requests of all kinds until the end."""
    while not stop.is_set():
        with grpc.insecure_channel(random.choice(addresses)) as channel:
            api = Api(channel)
            try:
                random.choice([create, create, create, abandon, rubbish])(api, book, random)
            except grpc.RpcError as error:
                book.events[error.code().name] += 1
                stop.wait(0.2)


def create(api: Api, book: Book, random: Random) -> None:
    """Create an adaptation; send it again until it is acknowledged, and watch some."""
    key = str(uuid.UUID(int=random.getrandbits(128)))
    options = AdaptationOptions(steps=random.choice([0, 3, 30]), tuning_steps=1)
    request = spec(options=options, seed=random.getrandbits(32), request_id=key)
    support = images(seed=random.getrandbits(16))
    name = book.accepted[key] = acknowledged(api, request, support)
    match random.randrange(4):
        case 0:
            api.cancel(name)
            book.cancelled.add(name)
        case 1:
            for _ in api.watch(name):
                if random.random() < 0.1:
                    return  # leaves in the middle


def acknowledged(api: Api, request: AdaptationSpec, support: list[Example]) -> str:
    """Send a request until it is accepted; returns the name of the adaptation."""
    while True:
        try:
            return api.create(request, support).name
        except grpc.RpcError as error:
            if error.code() not in RETRY:
                raise
            time.sleep(0.3)


def abandon(api: Api, book: Book, random: Random) -> None:
    """Break an upload off in its middle."""
    sent = threading.Event()

    def parts() -> "object":
        yield CreateAdaptationRequest(spec=spec())
        yield CreateAdaptationRequest(example=images()[0])
        sent.set()
        time.sleep(random.random())

    upload = api.adaptations.CreateAdaptation.future(parts(), timeout=5)  # type: ignore[arg-type]
    sent.wait(5)
    upload.cancel()


def rubbish(api: Api, book: Book, random: Random) -> None:
    with suppress(grpc.RpcError):
        api.create(spec(request_id=random.randbytes(8).hex()), images(("a",)))


def kill(server: ServerProcess, random: Random) -> bool:
    """Kill a worker or the front; returns True if the front was killed."""
    if random.random() < 0.5:
        server.signal_workers(signal.SIGKILL)
        return False
    server.process.kill()
    server.process.wait()
    return True


def all_of(api: Api) -> list[Adaptation]:
    """All adaptations of the server."""
    found, token = list[Adaptation](), ""
    while True:
        request = ListAdaptationsRequest(page_size=500, page_token=token)
        page = api.adaptations.ListAdaptations(request, timeout=60)
        found += page.adaptations
        token = page.next_page_token
        if not token:
            return found


def resident(server: ServerProcess) -> int:
    """The memory of the front in bytes."""
    text = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * SECONDS)
def test_kills_under_load(checkpoints: Path, tmp_path: Path) -> None:
    random, book, stop, kills = Random(SEED), Book(), threading.Event(), Counter[str]()
    with ExitStack() as stack:
        postgres = stack.enter_context(running_postgres()) if FRONTS > 1 else None
        flags = shared_flags(postgres, tmp_path)
        ports = [f"--listen=127.0.0.1:{free_port()}" for _ in range(FRONTS)]

        def start(number: int) -> ServerProcess:
            data = tmp_path / f"data{number}"
            return stack.enter_context(serving(checkpoints, data, *flags, ports[number]))

        servers = [start(number) for number in range(FRONTS)]
        addresses = [server.address for server in servers]
        callers = [
            threading.Thread(target=call, args=(addresses, book, Random(SEED + number + 1), stop))
            for number in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(PAUSE * (0.5 + random.random()))
            if postgres is not None and random.random() < 0.2:
                kills["database"] += 1
                postgres.kill()
                time.sleep(PAUSE * random.random())
                postgres.start()
                continue
            number = random.randrange(FRONTS)
            if kill(servers[number], random):
                kills["front"] += 1
                servers[number] = start(number)
            else:
                kills["worker"] += 1
        stop.set()
        for caller in callers:
            caller.join()
        for server in servers:
            check(server.api, book)
        print(f"{SECONDS:g} s, {FRONTS} fronts, kills {dict(kills)}")
        print(f"{len(book.accepted)} accepted, none lost, none doubled")
        memory = ", ".join(f"{resident(server) / 2**20:.0f}" for server in servers)
        print(f"errors {dict(book.events)}, memory of the fronts {memory} MiB")


def shared_flags(postgres: Postgres | None, folder: Path) -> list[str]:
    """Flags of all servers."""
    flags = ["--max-attempts=1000"]
    if postgres is not None:
        flags += [f"--records={postgres.create()}", f"--artefacts={folder / 'artefacts'}"]
        flags += ["--lease-seconds=3"]
    return flags


def check(api: Api, book: Book) -> None:
    """Wait for all jobs; none may be lost, doubled or damaged."""
    for name in book.accepted.values():
        state = api.end_of(name).state
        assert state == SUCCEEDED or (state == CANCELLED and name in book.cancelled), name
    jobs = all_of(api)
    requests = Counter(job.request_id for job in jobs if job.state != CANCELLED)
    assert max(requests.values()) == 1
    assert set(book.accepted.values()) <= {job.name for job in jobs}
    for job in jobs:
        if job.state == SUCCEEDED:
            content = b"".join(chunk.data for chunk in api.download(job.model))
            assert hashlib.sha256(content).hexdigest() == api.model(job.model).sha256
