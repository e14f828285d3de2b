"""Measure a server under attack and beyond its capacity.

- `health`: health checks while a caller sends the worst message of each kind, while many
  connections are idle, and while a caller sends ten times its quota; and the adaptations of other
  callers beside the latter.
- `watchers`: the delay of progress to many watchers.
- `refusals`: ten times the queue at a steady rate: the time of refusals, and the deadlines of
  accepted requests.
- `throughput`: adaptations and processor time of one server with worker processes, and of servers
  with workers on Ray that share a PostgreSQL. `servers` here are fronts.

Servers and callers are processes of this machine and share its cores.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.harness.machine import family, processor_seconds
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import ratio, spread
from benchmarks.harness.workloads import CHECKPOINTS, Workload
from benchmarks.server import Server, adapt, serving, support_of
from metanas.testing import make_checkpoint
from metanas_client import Client
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.ray_nodes import started
from tests.server.databases import running_postgres
from tests.server.worst import KINDS, ROWS, fill

TOPIC = "overload"
PROBE_SECONDS = 0.02
CONNECTIONS = 10
"""Connections of the watchers."""
DEADLINES = (2.0, 5.0, 10.0, 20.0, 40.0)
WORKLOADS = (
    Workload(network="shipped", ways=5, shots=1),
    Workload(network="photos", ways=5, shots=1, size=224, channels=3),
)
"""Tasks of the case `throughput`."""
FULL: Row = {"kinds": [each.__name__ for each in KINDS], "rows": ROWS, "quota": 64, "others": 8,
        "jobs": 16, "clients": 16, "longer": 8}  # fmt: skip
TINY: Row = {"kinds": ["dimensions", "tensors"], "rows": 2, "quota": 4, "others": 2, "jobs": 2,
        "clients": 2, "longer": 2}  # fmt: skip
"""Settings without a flag, also of a quick run.

kinds: worst messages.
rows: adaptations and models of the attacker before the attack.
quota: unfinished adaptations of the attacker.
others: other callers.
jobs: adaptations that watchers follow, and that a worker has done before it is overloaded.
clients: threads that adapt, in the case `throughput`.
longer: watching and adaptations are measured so many times as long as an attack.
"""
SIZES = ((1, 1), (1, 2), (2, 1), (2, 2))
PLACES = (("processes", 1, 1), ("processes", 1, 2), *(("ray", *size) for size in SIZES))
"""Where the workers are, the number of servers, and the workers of each."""
Options = argparse.Namespace


def measure(options: Options, machine: Row) -> list[Row]:
    """Measure the rows of the selected cases."""
    cases = (health, watchers, refusals, throughput)
    chosen = (case for case in cases if selected(case.__name__, options.only))
    return [{"case": case.__name__, **row} for case in chosen for row in case(options)]


@contextmanager
def calling(server: Server, role: str, token: str = "", **keywords: Any) -> Iterator[list[Row]]:
    """Let a process call the server; at the exit its figures are there."""
    command = [sys.executable, "-m", "benchmarks.harness.callers"]
    command += [role, server.address, token, json.dumps(keywords)]
    figures = list[Row]()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the callers ({role}) ended before they began; see above")
            yield figures
            figures += json.loads(process.communicate()[0])
        finally:
            process.kill()


def health(options: Options) -> Iterator[Row]:
    """Check the health under each attack; let other callers adapt beside an attacker."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        secrets = Path(folder, "tokens")
        names = ["attacker", *(f"other-{number}" for number in range(options.others))]
        attacker, *others = (tokens.create(secrets, name, Role.USE) for name in names)
        fill(Path(folder, "data"), options.rows, owner="attacker")
        flags = [f"--checkpoints={_checkpoints(Path(folder))}", f"--data={folder}/data"]
        flags += [
            f"--token-file={secrets}",
            f"--max-jobs-per-caller={options.quota}",
            "--devices=cpu",
        ]
        server = stack.enter_context(serving(1, *flags))
        yield {"attack": "none", **_probe(server, _lasting(options.seconds))}
        for kind in options.kinds:
            with calling(server, "worst", attacker, kind=kind) as sent:
                probed = _probe(server, _lasting(options.seconds))
            yield {"attack": kind, **probed, **sent[0]}
        with calling(server, "idle", connections=options.idle) as held:
            probed = _probe(server, _lasting(options.seconds))
        yield {"attack": "idle", **probed, **held[0]}
        yield from _beside_an_attacker(server, attacker, others, options)


def _beside_an_attacker(
    server: Server, attacker: str, others: Sequence[str], options: Options
) -> Iterator[Row]:
    seconds = options.seconds * options.longer
    for number in (0, 10 * options.quota):
        with ExitStack() as stack:
            sent = list[Row]()
            callers = calling(server, "closed", tokens=others, seconds=seconds)
            made = stack.enter_context(callers)
            if number:
                flood = calling(server, "flood", attacker, number=number, rate=number / seconds)
                sent = stack.enter_context(flood)
            probed = _probe(server, _lasting(seconds))
        yield {
            "attack": "quota" if number else "others",
            **probed,
            "reasons": dict(Counter(each.get("reason", "accepted") for each in sent)),
            "waited": [each["waited"] for each in made],
            "whole": [each["whole"] for each in made],
        }


def _probe(server: Server, goes_on: Callable[[], bool]) -> Row:
    """Check the health again and again: the seconds, and those of the loop's processor time."""
    took, loop = list[float](), list[float]()
    with grpc.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())  # connects
        while goes_on():
            before, start = _loop_seconds(server), perf_counter()
            stub.Check(health_pb2.HealthCheckRequest())
            took.append(perf_counter() - start)
            loop.append(_loop_seconds(server) - before)
            sleep(PROBE_SECONDS)
    return {"seconds": took, "loop": loop}


def _lasting(seconds: float) -> Callable[[], bool]:
    latest = perf_counter() + seconds
    return lambda: perf_counter() < latest


def _loop_seconds(server: Server) -> float:
    """Return the processor time of the thread that runs the event loop."""
    text = Path(f"/proc/{server.front}/task/{server.front}/schedstat").read_text(encoding="ascii")
    return int(text.split()[0]) / 1e9


def _checkpoints(folder: Path) -> Path:
    """Make a folder with the shipped checkpoint, and the one that the worst messages name."""
    checkpoints = folder / "checkpoints"
    make_checkpoint(checkpoints / "grey")
    (checkpoints / "omniglot").symlink_to(CHECKPOINTS / "omniglot")
    return checkpoints


def watchers(options: Options) -> Iterator[Row]:
    """Let many callers watch adaptations: as many as step together, and one."""
    with serving(1, "--devices=cpu") as server:
        for jobs in (options.jobs, 1):
            keywords = {"jobs": jobs, "watchers": options.watchers, "connections": CONNECTIONS}
            seconds = options.seconds * options.longer
            with calling(server, "watch", **keywords, seconds=seconds) as came:
                before = processor_seconds([server.front])
            used = processor_seconds([server.front]) - before
            delays = [each["seconds"] for each in came]
            yield {"jobs": jobs, "watchers": options.watchers, "messages": len(delays),
                   "p50": _quantile(delays, 0.5), "p99": _quantile(delays, 0.99),
                   "most": max(delays), "processor": used, "during": seconds}  # fmt: skip


def refusals(options: Options) -> Iterator[Row]:
    """Send ten times the queue at a steady rate."""
    with serving(1, "--devices=cpu", f"--max-queue={options.queue}") as server:
        with calling(server, "flood", number=options.jobs, rate=1000.0):
            pass  # the server then knows its pace
        before = processor_seconds([server.front])
        number = 10 * options.queue
        keywords = {"number": number, "rate": options.rate, "deadlines": DEADLINES}
        with calling(server, "flood", **keywords) as answers:
            pass
        used = processor_seconds([server.front]) - before
    refused = [each for each in answers if "reason" in each]
    accepted = [each for each in answers if "reason" not in each]
    yield {
        "queue": options.queue,
        "rate": options.rate,
        "reasons": dict(Counter(each["reason"] for each in refused)),
        "retry": sum(bool(each["retry"]) for each in refused),
        "seconds": [each["seconds"] for each in refused],
        "accepted": len(accepted),
        "met": sum(each["met"] for each in accepted),
        "processor": used,
    }


def throughput(options: Options) -> Iterator[Row]:
    """Let clients adapt again and again, through each kind of servers."""
    for place, number, workers in options.places:
        with _servers(place, number, workers) as (servers, families):
            for workload in options.workloads:
                yield {"place": place, "servers": number, "workers": workers,
                       "title": workload.title,
                       **_adaptations(servers, families, workload, options)}  # fmt: skip


@contextmanager
def _servers(
    place: str, number: int, workers: int
) -> Iterator[tuple[list[Server], Callable[[], list[int]]]]:
    """Start servers; yields them, and a function that finds all their processes."""
    devices = "--devices=" + ",".join(["cpu"] * workers)
    with ExitStack() as stack:
        if place == "processes":
            servers = [stack.enter_context(serving(1, devices))]
            yield servers, lambda: family(servers[0].front)
            return
        cluster = stack.enter_context(started(f"{number * workers}"))
        postgres = stack.enter_context(running_postgres())
        artefacts = stack.enter_context(TemporaryDirectory())
        flags = [devices, f"--workers={cluster.address}", f"--records={postgres.create()}"]
        flags += [f"--artefacts={artefacts}"]
        servers = [stack.enter_context(serving(1, *flags)) for _ in range(number)]
        roots = [cluster.pid, postgres.pid, *(server.front for server in servers)]
        yield servers, lambda: [pid for root in roots for pid in family(root)]


def _adaptations(
    servers: Sequence[Server],
    families: Callable[[], list[int]],
    workload: Workload,
    options: Options,
) -> Row:
    """Time adaptations of many clients; the whole time, and the processor time of the servers."""
    count = options.clients
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        clients = [
            stack.enter_context(closing(Client(servers[index % len(servers)].address)))
            for index in range(count)
        ]
        each = max(1, options.runs // count)

        def work(index: int, rounds: int) -> None:
            support = support_of(workload, index)
            for seed in range(rounds):
                adapt(clients[index], workload, support, seed)

        list(pool.map(work, range(count), [1] * count))  # warms up
        before, start = processor_seconds(families()), perf_counter()
        list(pool.map(work, range(count), [each] * count))
        whole, used = perf_counter() - start, processor_seconds(families()) - before
    return {"adaptations": each * count, "whole": whole, "processor": used}


def tables(results: Results) -> dict[str, str]:
    """Make the tables of the measured cases."""
    makers = {"health": (_health, _others), "watchers": (_watchers,), "refusals": (_refusals,),
              "throughput": (_throughput,)}  # fmt: skip
    made = dict[str, str]()
    for case, each in makers.items():
        rows = [row for row in results.rows if row["case"] == case]
        made |= {make.__name__.removeprefix("_"): make(rows) for make in each if rows}
    return made


TITLES = {
    "none": "nothing",
    "idle": "idle connections",
    "others": "callers that adapt",
    "quota": "the same, and one that sends ten times its quota",
}


def _health(rows: Sequence[Row]) -> str:
    header = ["health check beside", "median ms", "99 %", "most", "loop, 99 %", "checks"]
    named = [(TITLES[row["attack"]], [row]) for row in rows if row["attack"] in TITLES]
    kinds = [row for row in rows if row["attack"] not in TITLES]
    named.insert(1, (f"the worst messages, {len(kinds)} kinds", kinds))
    worst = max(kinds, key=lambda row: _quantile(row["seconds"], 0.99))
    named.insert(2, (f"the worst of them ({worst['attack']})", [worst]))
    lines = []
    for name, each in named:
        took = [value for row in each for value in row["seconds"]]
        loop = [value for row in each for value in row["loop"]]
        late, most = _quantile(took, 0.99), max(took)
        times = milliseconds(spread(took).median, late, most, _quantile(loop, 0.99))
        lines.append([name, *times, str(len(took))])
    return table(header, lines)


def _others(rows: Sequence[Row]) -> str:
    header = ["adaptations of other callers", "alone, ms", "beside the attacker", "times", "95 %"]
    alone, beside = (
        next(row for row in rows if row["attack"] == name) for name in ("others", "quota")
    )
    lines = []
    for title, name in (("median wait in the queue", "waited"), ("median until the end", "whole")):
        times = ratio(beside[name], alone[name])
        medians = milliseconds(spread(alone[name]).median, spread(beside[name]).median)
        lines.append([title, *medians, figure(times.value),
                      f"{figure(times.low)}–{figure(times.high)}"])  # fmt: skip
    return table(header, lines)


def _watchers(rows: Sequence[Row]) -> str:
    header = ["watchers", "adaptations", "messages/s", "median ms", "99 %", "most", "front, %"]
    lines = []
    for row in rows:
        rate, share = row["messages"] / row["during"], 100 * row["processor"] / row["during"]
        times = milliseconds(row["p50"], row["p99"], row["most"])
        lines.append([str(row["watchers"]), str(row["jobs"]), figure(rate), *times, figure(share)])
    return table(header, lines)


def _refusals(rows: Sequence[Row]) -> str:
    header = ["requests", "refused", "with a time for the retry", "median ms", "99 %", "accepted",
              "met their deadline"]  # fmt: skip
    lines = []
    for row in rows:
        took = row["seconds"]
        times = milliseconds(spread(took).median, _quantile(took, 0.99))
        counts = [str(row["accepted"]), str(row["met"])]
        title = f"{10 * row['queue']} for a queue of {row['queue']}, {row['rate']:g} a second"
        lines.append([title, str(len(took)), str(row["retry"]), *times, *counts])
    return table(header, lines)


def _throughput(rows: Sequence[Row]) -> str:
    header = ["task", "workers", "servers", "of each", "adaptations/min", "CPU s each",
              "against processes"]  # fmt: skip
    names = {"processes": "processes", "ray": "Ray, PostgreSQL"}
    alone = dict[tuple[str, int], float]()
    lines = []
    for row in sorted(rows, key=lambda row: row["title"], reverse=True):
        cost = row["processor"] / row["adaptations"]
        workers = row["servers"] * row["workers"]
        times = cost / alone.setdefault((row["title"], min(workers, 2)), cost)
        rate = 60 * row["adaptations"] / row["whole"]
        place = [row["title"], names[row["place"]], str(row["servers"]), str(row["workers"])]
        lines.append([*place, figure(rate), figure(cost), figure(times)])
    return table(header, lines)


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share))


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=96)
    add = made.add_argument
    add("--seconds", type=float, default=2.0, help="of each attack (%(default)s)")
    add("--idle", type=int, default=1000, metavar="N", help="idle connections (%(default)s)")
    add("--watchers", type=int, default=500, metavar="N", help="%(default)s")
    add("--queue", type=int, default=64, metavar="N", help="--max-queue (%(default)s)")
    add("--rate", type=float, default=100.0, metavar="N", help="requests a second (%(default)s)")
    options = made.parse_args(arguments)
    options.places, options.workloads = PLACES, WORKLOADS
    if options.quick:
        options.seconds, options.idle, options.watchers, options.queue = 0.2, 5, 4, 2
        options.runs, options.places = 2, (PLACES[0], PLACES[2])
        options.workloads = WORKLOADS[:1]
    vars(options).update(TINY if options.quick else FULL)
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
