"""Measure the memory of a server's processes over many adaptations.

One server with one worker; one client adapts to a new task each time, 5-way 1-shot and 20-way
1-shot in turn, so that shapes change from one to the next.
"""

import argparse
from collections.abc import Sequence

from benchmarks.harness.results import Results, Row, parser, run
from benchmarks.harness.tables import mebibytes, table
from benchmarks.harness.workloads import Workload
from benchmarks.server import adapt, serving, support_of
from metanas_client import Client

TOPIC = "memory"
WORKLOADS = tuple(Workload(network="shipped", ways=ways, shots=1) for ways in (5, 20))


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row before the first adaptation, and one after every `--every`."""
    rows: list[Row] = []
    for threads in options.threads:
        with serving(threads, "--devices=cpu") as server, Client(server.address) as client:
            machine["allocator"] = server.allocator()
            rows.append({"threads": threads, "adaptations": 0, **server.memory()})
            for index in range(options.runs):
                workload = WORKLOADS[index % len(WORKLOADS)]
                adapt(client, workload, support_of(workload, index), index)
                if (index + 1) % options.every == 0:
                    memory = server.memory()
                    rows.append({"threads": threads, "adaptations": index + 1, **memory})
    return rows


def tables(results: Results) -> dict[str, str]:
    """Make the table of memory before, after the first adaptations, and at the end."""
    threads: dict[int, list[Row]] = {}
    for row in results.rows:
        threads.setdefault(row["threads"], []).append(row)
    chosen = [row for rows in threads.values() for row in [*rows[:2], *rows[2:][-1:]]]
    sizes = [[mebibytes(row[name]) for name in ("workers", "front")] for row in chosen]
    lines = [
        [f"{r['adaptations']}", *s, f"{r['threads']}"] for r, s in zip(chosen, sizes, strict=True)
    ]
    return {"growth": table(["adaptations", "worker, MiB", "front, MiB", "threads"], lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=500)
    made.add_argument("--every", type=int, default=50, metavar="N", help="%(default)s")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.every, options.threads = 4, 2, [1]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
