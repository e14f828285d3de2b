"""Measure a running server under load: the latency of one caller, the rate of many.

A server process with one worker or more, and one process of clients: each client is a thread with a
separate connection that sends a support set, waits for the verified model and starts again. Both
share this machine's cores. It also measures the same adaptations in process.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from threading import Barrier
from time import perf_counter

import metanas
from benchmarks.harness.machine import allocator, status
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, milliseconds, table
from benchmarks.harness.timing import in_turns, ratio, seconds, spread
from benchmarks.harness.workloads import (
    CHECKPOINTS,
    SHIPPED,
    Workload,
    checkpoint_of,
    examples_of,
)
from metanas_client import Client
from metanas_server.config import ServerConfig

TOPIC = "server"
WORKLOADS = (
    Workload(network="shipped", ways=5, shots=1),
    Workload(network="shipped", ways=20, shots=1),
    Workload(network="photos", ways=5, shots=1, size=224, channels=3),
)
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
SHOWN = (1, 4, 16, 64)
"""Numbers of clients in the table; a run of others alone shows them all."""
LEAST_EACH = 3
"""Adaptations of each client, where many share the number of runs."""
Support = Mapping[str, Sequence[bytes]]

LIMITS = ("--max-queue=1000", "--max-jobs-per-caller=1000")
"""Flags that admit all the clients of a benchmark."""


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    front: process id of the process that speaks gRPC.
    """

    address: str
    front: int

    def workers(self) -> list[int]:
        """Return the process ids of its workers, without multiprocessing's own helper."""
        threads = Path(f"/proc/{self.front}/task").glob("*/children")
        children = " ".join(path.read_text(encoding="ascii") for path in threads).split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return [pid for pid, command in commands.items() if b"spawn_main" in command]

    def allocator(self) -> str | None:
        """Return the memory allocator of the workers."""
        return allocator(self.workers()[0])

    def memory(self) -> dict[str, int]:
        """Return the bytes resident in the front, and in the workers together."""
        workers = sum(status(pid)["VmRSS"] for pid in self.workers())
        return {"front": status(self.front)["VmRSS"], "workers": workers}


@contextmanager
def serving(threads: int, *flags: str) -> Iterator[Server]:
    """Start a server with the shipped checkpoints, wait until it is ready, and stop it at once."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metanas_server", "--listen=127.0.0.1:0"]
        command += [f"--checkpoints={CHECKPOINTS}", f"--data={folder}/data"]
        command += [f"--threads={threads}", "--grace=0", *LIMITS, *flags]
        environment = {name: value for name, value in os.environ.items() if "METANAS" not in name}
        with (
            open(f"{folder}/log", "w+", encoding="utf-8") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            ) as process,
        ):
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                if " ready on " not in ready:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {log.read()}")
                yield Server(ready.split(" ready on ")[1].split()[0], process.pid)
            finally:
                process.terminate()


def support_of(workload: Workload, episode: int) -> Support:
    """Make a support set for the client: class -> files."""
    classes: dict[str, list[bytes]] = {}
    for example in examples_of(workload, episode):
        assert isinstance(example.image, bytes)
        classes.setdefault(example.label, []).append(example.image)
    return classes


def adapt(client: Client, workload: Workload, support: Support, seed: int) -> None:
    """Send a support set and wait for the verified file."""
    client.adapt(support, checkpoint=SHIPPED[workload.network], seed=seed).result()


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for the overhead of each workload, and one for each number of clients."""
    rows: list[Row] = []
    for workers in options.workers:
        devices = ",".join(["cpu"] * workers)
        with serving(options.threads[0], f"--devices={devices}") as server:
            machine["allocator"] = server.allocator()
            for workload in (each for each in WORKLOADS if selected(each.name, options.only)):
                facts = {"case": workload.name, "title": workload.title, "workers": workers}
                rows.append({**facts, **_overhead(server, workload, options)})
                rows += [
                    {**facts, **_load(server, workload, clients, options)}
                    for clients in options.clients
                ]
    return rows


def _overhead(server: Server, workload: Workload, options: argparse.Namespace) -> Row:
    """Time the same adaptations through the server and in this process, in turns."""
    checkpoint = checkpoint_of(workload)
    with Client(server.address) as client:

        def remote(episode: int) -> float:
            support = support_of(workload, episode)
            return seconds(partial(adapt, client, workload, support, episode))

        def local(episode: int) -> float:
            examples = examples_of(workload, episode)
            return seconds(lambda: metanas.adapt(checkpoint, examples, seed=episode))

        return in_turns({"remote": remote, "local": local}, options.runs, options.budget)


def _load(server: Server, workload: Workload, clients: int, options: argparse.Namespace) -> Row:
    """Let each client adapt again and again; measure the latencies and the whole time."""
    each = max(LEAST_EACH if clients > 1 else 1, options.runs // clients)
    barrier = Barrier(clients + 1)

    def latencies_of(number: int) -> list[float]:
        with Client(server.address) as client:
            work = partial(adapt, client, workload, support_of(workload, number), number)
            work()  # connects, and warms up both sides
            barrier.wait()
            return [seconds(work) for _ in range(each)]

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(latencies_of, number) for number in range(clients)]
        barrier.wait()
        start = perf_counter()
        latencies = [value for future in futures for value in future.result()]
        whole = perf_counter() - start
    memory = server.memory()
    return {"clients": clients, "latencies": latencies, "whole": whole, "memory": memory}


def tables(results: Results) -> dict[str, str]:
    """Make the tables of one caller and of many."""
    return {"one": _one(results.rows), "many": _many(results.rows)}


def _one(rows: Sequence[Row]) -> str:
    header = ["one caller, milliseconds", "in process", "25 %", "75 %", "server", "25 %", "75 %"]
    lines = []
    for row in (row for row in rows if "remote" in row):
        local, remote = spread(row["local"]), spread(row["remote"])
        more = median(there - here for there, here in zip(row["remote"], row["local"], strict=True))
        times = figure(ratio(row["remote"], row["local"]).value)
        quartiles = [local.median, *local.quartiles, remote.median, *remote.quartiles]
        lines.append([_label(row), *milliseconds(*quartiles, more), times])
    return table([*header, "more", "times"], lines)


def _many(rows: Sequence[Row]) -> str:
    header = ["clients", "adaptations/s", "against one", "median ms", "25 %", "75 %", "most"]
    alone: dict[str, float] = {}
    lines = []
    many = [row for row in rows if "clients" in row]
    for row in [row for row in many if row["clients"] in SHOWN] or many:
        took = spread(row["latencies"])
        rate = took.runs / row["whole"]
        times = rate / alone.setdefault(row["title"], rate)
        latencies = milliseconds(took.median, *took.quartiles, took.most)
        name = f"{_label(row)}, {row['clients']}"
        lines.append([name, figure(rate), figure(times), *latencies, str(took.runs)])
    return table([*header, "adaptations"], lines)


def _label(row: Row) -> str:
    return f"{row['title']}, {row['workers']} worker{'s' * (row['workers'] > 1)}"


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=20)
    made.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS), metavar="N")
    made.add_argument(
        "--workers", type=int, nargs="+", default=sorted({1, len(ServerConfig().devices)}),
        metavar="N", help="worker processes of the CPU (one, and the server's default)",
    )  # fmt: skip
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.threads, options.clients, options.workers = 2, [1], [1, 2], [1]
        options.only = options.only or ["5w1s"]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
