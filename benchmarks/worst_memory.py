"""Measure the memory of workers under the worst load that the default limits admit.

A server with two workers gets several support sets at once, each of them as large as it may be:
the images with most pixels, the most images, or the most classes. A worker's budget is its memory
before, `--max-image-memory` and `--max-stack-bytes`.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image as Picture

from benchmarks.harness.machine import status
from benchmarks.harness.results import Results, Row, parser, run, selected
from benchmarks.harness.tables import figure, mebibytes, table
from benchmarks.server import Server, serving
from metanas_client import Client
from metanas_server.config import ServerConfig

TOPIC = "worst_memory"
WORKERS = 2
FULL = 2048
"""Side of the largest image that is not reduced."""
STEPS = {"steps": 2, "tuning_steps": 1}
Support = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Case:
    """A load.

    requests: number of support sets at once.
    side: side of the images in pixels.
    """

    title: str
    checkpoint: str
    requests: int
    ways: int
    shots: int
    side: int
    make: Callable[[int, int], bytes]

    def support(self, number: int) -> Support:
        """Make a support set: class -> files, no two of them alike."""
        files = (self.make(self.side, 10_000 * number + index) for index in range(10_000))
        return {
            f"class {way}": [file for file, _ in zip(files, range(self.shots), strict=False)]
            for way in range(self.ways)
        }


def flat(side: int, seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Make a small file of a large image: white, and a rectangle to tell it from others."""
    picture = Picture.new(mode, (side, side), "white")
    picture.paste("black", (0, 0, side * (1 + seed % 50) // 64, side * (1 + seed // 50 % 50) // 64))
    file = BytesIO()
    picture.save(file, kind, **({"lossless": True} if kind == "WebP" else {"compress_level": 1}))
    return file.getvalue()


def transparent(side: int, seed: int) -> bytes:
    """Make a WebP with transparency: of all formats it needs most memory while it is decoded."""
    return flat(side, seed, "WebP", "RGBA")


def noise(side: int, seed: int) -> bytes:
    """Make a file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


CASES = (
    Case("16 in a stack", "omniglot", 32, 20, 5, 28, noise),
    Case("most decoded pixels", "photos", 4, 2, 45, FULL, flat),
    Case("most images, 48×48", "drawn", 4, 100, 50, 8, noise),
    Case("most images, 28×28", "omniglot", 4, 100, 50, 8, noise),
    Case("49 million pixels", "photos", 4, 2, 1, 7000, transparent),
)


def measure(options: argparse.Namespace, machine: Row) -> list[Row]:
    """Measure a row for each load, with a server of its own."""
    rows = []
    for case in (each for each in CASES if selected(each.title, options.only)):
        if options.quick:
            case = replace(case, requests=2, ways=2, shots=1)
        devices = f"--devices={','.join(['cpu'] * WORKERS)}"
        with serving(options.threads[0], devices, "--max-seconds=3600") as server:
            machine["allocator"] = server.allocator()
            before = [status(pid)["VmRSS"] for pid in server.workers()]
            ends = list(load(server, case, options.budget))
            peaks = [status(pid)["VmHWM"] for pid in server.workers()]
            config = ServerConfig()
            budget = max(before) + config.max_image_memory + config.max_stack_bytes
            rows.append(
                {
                    "title": case.title,
                    "requests": case.requests,
                    "images": case.ways * case.shots,
                    "ends": {end: ends.count(end) for end in sorted(set(ends))},
                    "before": max(before),
                    "peak": max(peaks),
                    "budget": budget,
                }
            )
    return rows


def load(server: Server, case: Case, seconds: float) -> Iterator[str]:
    """Send all support sets at once; yield how each ends."""

    def send(number: int) -> str:
        with Client(server.address) as client:
            support = case.support(number)
            try:
                made = client.adapt(support, checkpoint=case.checkpoint, seed=number, options=STEPS)
                made.result(seconds)
            except Exception as error:
                return str(getattr(error, "reason", type(error).__name__))
            return "model"

    with ThreadPoolExecutor(case.requests) as pool:
        yield from pool.map(send, range(case.requests))


def tables(results: Results) -> dict[str, str]:
    """Make the table of the peaks."""
    header = ["load", "requests", "images each", "before, MiB", "peak, MiB", "budget, MiB", "part"]
    header += ["ends"]
    lines = [
        [
            *(row["title"], str(row["requests"]), f"{row['images']:,}"),
            *(mebibytes(row[name]) for name in ("before", "peak", "budget")),
            figure(row["peak"] / row["budget"]),
            ", ".join(f"{end} {count}" for end, count in row["ends"].items()),
        ]
        for row in results.rows
    ]
    return {"peaks": table(header, lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(TOPIC, __doc__, runs=1).parse_args(arguments)
    if options.quick:
        options.only, options.threads = ["16 in a stack"], [1]
    run(TOPIC, options, measure, tables)


if __name__ == "__main__":
    main()
