"""A server under mixed load whose processes are killed at random: no accepted job is lost.

`make soak` runs longer and prints its figures: METANAS_SOAK is the number of seconds,
METANAS_SOAK_FRONTS the number of servers (1 embedded, 2 distributed), METANAS_SOAK_WORKERS=ray puts
the workers of distributed servers on Ray, METANAS_SOAK_SEED is the seed, METANAS_OUT a JSON file.

Kills stop in the middle third, so that processes live long enough to show a leak.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random

import grpc
import pytest

from benchmarks.harness.machine import facts
from benchmarks.reliability import report
from metanas_protos.v1.adaptation_pb2 import Adaptation
from metanas_protos.v1.adaptation_service_pb2 import ListAdaptationsRequest
from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from tests.server.calls import CANCELLED, FAILED, SUCCEEDED, Api
from tests.server.memory_samples import Samples, log_bytes
from tests.server.soak_calls import Caller, Job, check_model, ended_well
from tests.server.soak_system import System, running

SECONDS = float(os.environ.get("METANAS_SOAK", "12"))
SEED = int(os.environ.get("METANAS_SOAK_SEED", "0"))
FRONTS = [int(number) for number in os.environ.get("METANAS_SOAK_FRONTS", "1,2").split(",")]
RAY = os.environ.get("METANAS_SOAK_WORKERS") == "ray"
OUT = os.environ.get("METANAS_OUT")
CALLERS = 4
PAUSE = 5.0
"""Mean seconds between two kills."""
LONG = 600.0
"""Seconds of a run whose memory must be flat."""
MOST_GROWTH = 1.1


def listed(api: Api) -> list[Adaptation]:
    """Return all adaptations of the servers."""
    found, token = list[Adaptation](), ""
    while True:
        request = ListAdaptationsRequest(page_size=500, page_token=token)
        page = api.adaptations.ListAdaptations(request, timeout=60)
        found += page.adaptations
        token = page.next_page_token
        if not token:
            return found


def count_models(api: Api) -> int:
    """Return the number of all models of the servers."""
    count, token = 0, ""
    while True:
        request = ListModelsRequest(page_size=500, page_token=token)
        page = api.models.ListModels(request, timeout=60)
        count, token = count + len(page.models), page.next_page_token
        if not token:
            return count


@pytest.mark.slow
@pytest.mark.timeout(900 + 10 * SECONDS)
@pytest.mark.parametrize("fronts", FRONTS)
def test_kills_under_load(checkpoints: Path, tmp_path: Path, fronts: int) -> None:
    ray, stop, kills = RAY and fronts > 1, threading.Event(), Counter[str]()
    machine = facts()
    callers = [Caller(Random(SEED + number + 1)) for number in range(CALLERS)]
    with running(checkpoints, tmp_path, fronts, ray=ray) as system:
        samples = Samples({"front": system.fronts, "worker": system.workers})
        threads = [
            threading.Thread(target=caller.run, args=(system.addresses, stop)) for caller in callers
        ]
        threads.append(threading.Thread(target=samples.run, args=(SECONDS / 180, stop)))
        for thread in threads:
            thread.start()
        try:
            crashes = kill_at_random(system, kills)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        figures = {"seconds": round(SECONDS), "kills": dict(kills), **check(system, callers)}
        quiet = (0.4 * SECONDS, SECONDS * 2 / 3)
        figures |= {**samples.figures(*quiet), "log, MiB": round(log_bytes(tmp_path) / 2**20, 2)}
    faults = crashes + [fault for caller in callers for fault in caller.faults]
    if OUT:
        name = f"soak, {'distributed' if fronts > 1 else 'embedded'}"
        command = f"make soak SECONDS={SECONDS:g} FRONTS={fronts}{' WORKERS=ray' * ray}"
        report(Path(OUT), name, command, machine, figures | {"faults": len(faults)})
    assert not faults, faults[0]
    assert {figures[name] for name in ("lost", "doubled", "corrupt")} == {0}, figures
    if SECONDS >= LONG:
        growth = samples.growth(*quiet)
        assert max(growth.values()) <= MOST_GROWTH, growth


def kill_at_random(system: System, kills: Counter[str]) -> list[str]:
    """Kill processes until the end, but not in the middle third; return the fronts that crash."""
    random, start, crashes = Random(SEED), time.monotonic(), list[str]()
    while (gone := time.monotonic() - start) < SECONDS:
        time.sleep(min(PAUSE * (0.5 + random.random()), SECONDS - gone))
        crashes += system.crashes()
        if not SECONDS / 3 <= time.monotonic() - start < SECONDS * 2 / 3:
            kills[system.kill(random)] += 1
    return crashes


def check(system: System, callers: list[Caller]) -> dict[str, object]:
    """Wait for all jobs; return the number of jobs that were lost, doubled or damaged."""
    apis = [server.api for server in system.servers]
    jobs = [job for caller in callers for job in caller.jobs]
    left = [job for job in jobs if not job.deleted]
    for number, job in enumerate(left):
        with_patience(partial(apis[number % len(apis)].end_of, job.name))
    found = {each.name: each for each in listed(apis[-1])}
    lost = [
        job for job in left if not (job.name in found and ended_well(job, found[job.name].state))
    ]
    doubled = sum(times - 1 for times in requests_of(found.values()).values())
    doubled += sum(job.deleted and job.name in found for job in jobs)
    succeeded = [each for each in found.values() if each.state == SUCCEEDED]
    doubled += abs(count_models(apis[0]) - len(succeeded))
    damaged = [job for job in left if is_damaged(apis[0], job, found.get(job.name))]
    total = Counter[str]()
    for caller in callers:
        total += caller.calls
    refusals = Counter[str]()
    for caller in callers:
        refusals += caller.refusals
    failed = Counter(each.failure.reason for each in found.values() if each.state == FAILED)
    return {
        "acknowledged": len(jobs),
        "lost": len(lost),
        "doubled": doubled,
        "corrupt": len(damaged),
        "models compared at the end": len(succeeded),
        "deleted by their callers": len(jobs) - len(left),
        "calls": dict(total.most_common()),
        "refusals and broken calls": dict(refusals.most_common()),
        "failed adaptations": dict(failed),
    }


def with_patience(do: partial[Adaptation]) -> None:
    """Wait for the end of a job whose watch may be cut off."""
    for _ in range(5):
        try:
            do()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return  # counts as lost
        else:
            return


def requests_of(found: Iterable[Adaptation]) -> Counter[str]:
    """Count the adaptations of each request; a cancelled one may be made again."""
    return Counter(each.request_id for each in found if each.request_id and each.state != CANCELLED)


def is_damaged(api: Api, job: Job, ended: Adaptation | None) -> bool:
    """Compare the file of a model with its digest, its labels and its answers."""
    if ended is None or ended.state != SUCCEEDED:
        return False
    try:
        check_model(api, job, ended.model)
    except AssertionError as error:
        print(error)
        return True
    return False
