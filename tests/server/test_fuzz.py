"""Mutated messages, images, frames and requests: an answer for each, and no fault of the server.

`make fuzz` sends more and prints its figures: METANAS_FUZZ is the number of messages,
METANAS_FUZZ_SEED their seed, METANAS_OUT a JSON file.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread

import pytest

from benchmarks.harness.machine import facts
from benchmarks.reliability import report
from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationState
from metanas_protos.v1.adaptation_service_pb2 import ListAdaptationsRequest
from tests.server.calls import FAILED, QUEUED, RUNNING, Api, images, spec
from tests.server.fuzz_bytes import fuzz_frames, fuzz_studio
from tests.server.fuzz_messages import METHODS, Target, fuzz_image, fuzz_method, make_photos
from tests.server.memory_samples import Samples
from tests.server.processes import ServerProcess
from tests.server.studio_calls import Studio, studio_of

MESSAGES = int(os.environ.get("METANAS_FUZZ", "300"))
SEED = int(os.environ.get("METANAS_FUZZ_SEED", "0"))
OUT = os.environ.get("METANAS_OUT")
THREADS = 4
KINDS = (fuzz_method,) * 6 + (fuzz_image,) * 2 + (fuzz_frames, fuzz_studio)
WRONG = {"INTERNAL", "UNKNOWN", "LOST", "HANG", "500"}
"""Outcomes that blame the server; a call is LOST with its connection."""
MOST_LOG_BYTES = 10 * 2**20
NAMES = {method.name for method in METHODS}
LONG = 20_000
"""Messages of a run whose memory must be flat."""
MOST_GROWTH = 1.1
FLAGS = ("--max-seconds=30", "--max-queue=100000", "--max-jobs-per-caller=100000")

Outcomes = Counter[tuple[str, str]]


@dataclass
class Health:
    """The answers of the health service during the run."""

    answers: int = 0
    failures: list[str] = field(default_factory=list)
    worst_seconds: float = 0.0

    def run(self, server: ServerProcess, stop: Event) -> None:
        while not stop.wait(0.5):
            start = time.monotonic()
            try:
                assert server.is_serving()
            except Exception as error:
                self.failures.append(repr(error))
            self.answers += 1
            self.worst_seconds = max(self.worst_seconds, time.monotonic() - start)


@pytest.fixture
def studio(checkpoints: Path, data: Path) -> Iterator[Studio]:
    with studio_of(checkpoints, data, *FLAGS) as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(600 + MESSAGES)
def test_mutated_messages(studio: Studio, data: Path) -> None:
    server, stop, health, machine = studio.server, Event(), Health(), facts()
    api = server.api
    made, victim = (api.end_of(api.create(spec(seed=seed), images()).name) for seed in (0, 1))
    model, victims = made.model.removeprefix("models/"), (victim.name, victim.model)
    target = Target(server.channel, server.address, studio.address, made.name, model, victims)
    processes, files = (server.process.pid, *server.workers()), open_files(server)
    samples = Samples({"front": lambda: [server.process.pid], "worker": server.workers})
    watching = [
        Thread(target=health.run, args=(server, stop)),
        Thread(target=samples.run, args=(1.0, stop)),
    ]
    for thread in watching:
        thread.start()
    start = time.monotonic()
    try:
        outcomes, wrong = send_all(target)
        seconds = time.monotonic() - start
        until_idle(api)
    finally:
        stop.set()
        for thread in watching:
            thread.join()
    reasons = Counter(each.failure.reason for each in listed(api, FAILED))
    log = data.with_suffix(".log").stat().st_size
    for (name, outcome), count in sorted(outcomes.items()):
        print(f"{name:24} {outcome:20} {count}")
    if OUT:
        command = f"make fuzz MESSAGES={MESSAGES}"
        figures = {
            **by_kind(outcomes),
            "wrong outcomes": len(wrong),
            "failed adaptations": dict(reasons.most_common()),
            "answers of health": health.answers,
            "health not served": len(health.failures),
            **samples.figures(seconds / 3, seconds),
            "open files before and after": [files, open_files(server)],
            "log, MiB": round(log / 2**20, 2),
        }
        report(Path(OUT), "fuzz", command, machine, figures)
    assert not wrong, wrong[:5]
    assert reasons.keys().isdisjoint({"INTERNAL", "WORKER_LOST"})
    assert not health.failures
    assert processes == (server.process.pid, *server.workers()), "a process has died"
    text = data.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    assert not re.search(r'File ".*metanas', text), "the log has a traceback of the server"
    assert log < MOST_LOG_BYTES
    assert api.get(made.name) == made
    if MESSAGES >= LONG:
        assert max(samples.growth(seconds / 3, seconds).values()) <= MOST_GROWTH


def send_all(target: Target) -> tuple[Outcomes, list[str]]:
    """Send all messages; count the outcomes, and describe the wrong ones."""
    photos = make_photos(Random(SEED))

    def send(number: int) -> tuple[str, str, int]:
        """Send a message; the same number gives the same message."""
        random = Random(f"{SEED} {number}")
        kind: Callable[[Target, Random, Sequence[bytes]], tuple[str, str]]
        kind = KINDS[number % len(KINDS)]
        return (*kind(target, random, photos), number)

    outcomes, wrong = Outcomes(), []
    with ThreadPoolExecutor(THREADS) as pool:
        for name, outcome, number in pool.map(send, range(MESSAGES)):
            outcomes[name, outcome] += 1
            if outcome in WRONG:
                wrong.append(f"message {number}, {name}: {outcome}")
    return outcomes, wrong


def by_kind(outcomes: Outcomes) -> dict[str, dict[str, int]]:
    """Return the outcomes of each kind of message."""
    found: dict[str, Counter[str]] = {}
    for (name, code), count in outcomes.items():
        kind = f"messages of {len(METHODS)} methods" if name in NAMES else name
        found.setdefault(kind, Counter())[code] += count
    return {kind: dict(codes.most_common()) for kind, codes in sorted(found.items())}


def listed(api: Api, state: "AdaptationState.ValueType") -> Iterator[Adaptation]:
    """Yield the adaptations in a state."""
    token = ""
    while True:
        request = ListAdaptationsRequest(state=state, page_size=500, page_token=token)
        page = api.adaptations.ListAdaptations(request, timeout=60)
        yield from page.adaptations
        token = page.next_page_token
        if not token:
            return


def until_idle(api: Api) -> None:
    """Wait until no adaptation is left to do."""
    for state in (QUEUED, RUNNING):
        while next(listed(api, state), None) is not None:
            time.sleep(0.5)


def open_files(server: ServerProcess) -> int:
    """Return the number of open files of the front."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
