"""A running server under load: what one caller waits, and what many callers get together.

A server process with one worker or more, and one process of clients: each client is a thread with a
connection of its own that sends a support set, waits for the model, has it verified, and starts
again. Both share this machine's cores. Beside it the same adaptations in process.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from threading import Barrier
from time import perf_counter

from benchmarks._cases import SHIPPED, Case, checkpoint_of, examples_of
from benchmarks._measure import in_turns, ratio, seconds, spread
from benchmarks._results import (
    Results,
    Row,
    figure,
    finish,
    milliseconds,
    parser,
    started,
    table,
    wanted,
)
from benchmarks._serving import Server, serving
from metanas.adaptation.scheduler import adapt
from metanas_client import Client
from metanas_server.config import ServerConfig

TOPIC = "server"
CASES = (
    Case(network="shipped", ways=5, shots=1),
    Case(network="shipped", ways=20, shots=1),
    Case(network="photos", ways=5, shots=1, size=128, channels=3),
)
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
SHOWN = (1, 4, 16, 64)
"""Numbers of clients in the table; a run of others alone shows them all."""
LEAST_EACH = 3
"""Adaptations of every client, where many share the number that was asked for."""

Support = Mapping[str, Sequence[bytes]]


def support_of(case: Case, episode: int) -> Support:
    """A support set as the client takes it: class -> files."""
    classes: dict[str, list[bytes]] = {}
    for example in examples_of(case, episode):
        assert isinstance(example.image, bytes)
        classes.setdefault(example.label, []).append(example.image)
    return classes


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """A row for the overhead of every case, and one for every number of clients."""
    rows: list[Row] = []
    for workers in options.workers:
        devices = ",".join(["cpu"] * workers)
        with serving(options.threads[0], f"--devices={devices}") as server:
            machine["allocator"] = server.allocator()
            for case in (case for case in CASES if wanted(case.name, options.only)):
                facts = {"case": case.name, "title": case.title, "workers": workers}
                rows.append({**facts, **_overhead(server, case, options)})
                rows += [
                    {**facts, **_load(server, case, clients, options)}
                    for clients in options.clients
                ]
    return rows


def _overhead(server: Server, case: Case, options: argparse.Namespace) -> Row:
    """The same adaptations through the server and in this process, in turns."""
    checkpoint = checkpoint_of(case)
    with Client(server.address) as client:

        def remote(episode: int) -> float:
            return seconds(
                partial(adapt_remotely, client, case, support_of(case, episode), episode)
            )

        def local(episode: int) -> float:
            examples = examples_of(case, episode)
            return seconds(lambda: adapt(checkpoint, examples, seed=episode))

        return in_turns({"remote": remote, "local": local}, options.runs, options.budget)


def adapt_remotely(client: Client, case: Case, support: Support, seed: int) -> None:
    """From sending the support set to having the verified file."""
    client.adapt(support, checkpoint=SHIPPED[case.network], seed=seed).result()


def _load(server: Server, case: Case, clients: int, options: argparse.Namespace) -> Row:
    """Every client adapts again and again; latencies, and how long all of it took."""
    each = max(LEAST_EACH if clients > 1 else 1, options.runs // clients)
    barrier = Barrier(clients + 1)

    def calls(number: int) -> list[float]:
        with Client(server.address) as client:
            support = support_of(case, number)
            work = partial(adapt_remotely, client, case, support, number)
            work()  # connects, and warms up both sides
            barrier.wait()
            return [seconds(work) for _ in range(each)]

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(calls, number) for number in range(clients)]
        barrier.wait()
        start = perf_counter()
        latencies = [value for future in futures for value in future.result()]
        whole = perf_counter() - start
    memory = server.memory()
    return {"clients": clients, "latencies": latencies, "whole": whole, "memory": memory}


def tables(results: Results) -> dict[str, str]:
    """The tables of one run."""
    return {"one": _one(results.rows), "many": _many(results.rows)}


def _one(rows: Sequence[Row]) -> str:
    header = ["one caller, milliseconds", "in process", "25 %", "75 %", "server", "25 %", "75 %",
              "more", "times"]  # fmt: skip
    lines = []
    for row in (row for row in rows if "remote" in row):
        local, remote = spread(row["local"]), spread(row["remote"])
        figures = [local.median, *local.quartiles, remote.median, *remote.quartiles]
        more = median(
            [there - here for there, here in zip(row["remote"], row["local"], strict=True)]
        )
        lines.append(
            [
                _label(row),
                *map(milliseconds, [*figures, more]),
                figure(ratio(row["remote"], row["local"]).value),
            ]
        )
    return table(header, lines)


def _many(rows: Sequence[Row]) -> str:
    header = ["clients", "adaptations/s", "against one", "median ms", "25 %", "75 %", "most",
              "adaptations"]  # fmt: skip
    alone: dict[str, float] = {}
    lines = []
    many = [row for row in rows if "clients" in row]
    for row in [row for row in many if row["clients"] in SHOWN] or many:
        took = spread(row["latencies"])
        rate = took.runs / row["whole"]
        first = alone.setdefault(row["title"], rate)
        figures = map(milliseconds, [took.median, *took.quartiles, took.most])
        name = f"{_label(row)}, {row['clients']}"
        lines.append([name, figure(rate), figure(rate / first), *figures, str(took.runs)])
    return table(header, lines)


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
    machine = started(options)
    finish(TOPIC, options, machine, measure(options, machine), tables)


if __name__ == "__main__":
    main()
