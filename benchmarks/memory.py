"""Memory of a server's processes as adaptations go by: does it grow?

One server with one worker; one client adapts to a new 5-way 1-shot or 20-way 1-shot task each time,
so that no two in a row have the same shapes. The memory is what is resident after every few.
"""

import argparse
from collections.abc import Sequence

from benchmarks._cases import Case
from benchmarks._results import (
    Results,
    Row,
    finish,
    mebibytes,
    parser,
    started,
    table,
)
from benchmarks._serving import serving
from benchmarks.server import adapt_remotely, support_of
from metanas_client import Client

TOPIC = "memory"
CASES = (Case(network="shipped", ways=5, shots=1), Case(network="shipped", ways=20, shots=1))


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """A row for every `--every` adaptations, and one for none."""
    rows: list[Row] = []
    for threads in options.threads:
        with serving(threads, "--devices=cpu") as server, Client(server.address) as client:
            machine["allocator"] = server.allocator()
            rows.append({"threads": threads, "adaptations": 0, **server.memory()})
            for index in range(options.runs):
                case = CASES[index % len(CASES)]
                adapt_remotely(client, case, support_of(case, index), index)
                if (index + 1) % options.every == 0:
                    found = server.memory()
                    rows.append({"threads": threads, "adaptations": index + 1, **found})
    return rows


def tables(results: Results) -> dict[str, str]:
    """The table of one run."""
    header = ["adaptations", "worker, MiB", "front, MiB", "threads"]
    lines = [
        [
            str(row["adaptations"]),
            mebibytes(row["workers"]),
            mebibytes(row["front"]),
            str(row["threads"]),
        ]
        for row in results.rows
    ]
    return {"growth": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(TOPIC, __doc__, runs=500)
    made.add_argument("--every", type=int, default=50, metavar="N", help="%(default)s")
    options = made.parse_args(arguments)
    if options.quick:
        options.runs, options.every, options.threads = 4, 2, [1]
    machine = started(options)
    finish(TOPIC, options, machine, measure(options, machine), tables)


if __name__ == "__main__":
    main()
