"""The demo: from a folder of handwritten digits to an ONNX model, through a real server and back.

Starts a server on the shipped checkpoint, adapts to the support images over gRPC, downloads the
model, classifies the query images with ONNX Runtime, prints what was found, stops the server.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from metanas_client import Adaptation, Client, ClientError, Model, State
from metanas_client.figures import draw_cells
from metanas_client.onnx.cells import read_cells
from metanas_client.onnx.cells import table as cell_rows

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits"
STOP_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code."""
    options = _options(arguments)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with running_server(options.checkpoints, options.out / "server.log") as address:
            console.print(f"server      listening on {address}")
            with Client(address) as client:
                handle = client.adapt(
                    options.support, checkpoint=options.checkpoint, seed=options.seed
                )
                show_progress(handle, console)
                model = handle.result()
    except (ClientError, ServerFailed) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    path = model.save(options.out / "model.onnx")
    right, total = classify(model, options.query)
    console.print(summary(model, right, total))
    pictures = draw(model, options.out)
    console.print(f"written     {', '.join(map(str, (path, *pictures)))}")
    return 0


class ServerFailed(Exception):
    """The server has ended before it was ready; the text is what it said."""


@contextmanager
def running_server(checkpoints: Path, log: Path) -> Iterator[str]:
    """A server on a free port of this machine, with a temporary data folder; yields its address.

    One worker is enough: the demo makes one model.
    """
    with tempfile.TemporaryDirectory(prefix="metanas-demo-") as data, log.open("w") as errors:
        command = [sys.executable, "-m", "metanas_server", "--listen", "127.0.0.1:0"]
        command += ["--checkpoints", str(checkpoints), "--data", data, "--devices=cpu"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        ) as server:
            try:
                yield _address(server, log)
            finally:
                server.terminate()
                try:
                    server.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()


def _address(server: subprocess.Popen[str], log: Path) -> str:
    """Wait for the line that says that the server is ready: its address is a word of it."""
    assert server.stdout is not None
    for line in server.stdout:
        for word in line.split():
            host, _, port = word.rstrip(".,;").rpartition(":")
            if host and port.isdecimal():
                return f"{host}:{port}"
    raise ServerFailed(log.read_text(encoding="utf-8").strip() or "the server ended at once")


def show_progress(adaptation: Adaptation, console: Console) -> None:
    """Draw a bar for each stage while the server works."""
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bars:
        stage, bar = "", TaskID(0)
        for step in adaptation.progress():
            if step.stage != stage:
                _finish(bars)
                stage = step.stage
                bar = bars.add_task(stage, total=max(step.steps, 1), figures="")
            figures = {"loss": step.loss, "accuracy": step.accuracy, "T": step.temperature}
            text = "  ".join(f"{k} {v:.3f}" for k, v in figures.items() if v is not None)
            bars.update(bar, completed=step.step, figures=text or bars.tasks[-1].fields["figures"])
        if adaptation.info().state is State.SUCCEEDED:
            _finish(bars)


def _finish(bars: Progress) -> None:
    """The stage that was shown last is over."""
    for task in bars.tasks[-1:]:
        bars.update(task.id, completed=task.total)


def classify(model: Model, folder: Path) -> tuple[int, int]:
    """Count the rightly classified images of a folder of class folders, and all images."""
    images = sorted(path for path in folder.glob("*/*") if path.is_file())
    predictions = model.predict(images)
    hits = [
        prediction.label == path.parent.name
        for path, prediction in zip(images, predictions, strict=True)
    ]
    return sum(hits), len(hits)


def summary(model: Model, right: int, total: int) -> Table:
    """The short report."""
    report, estimate = model.report, model.report.leave_one_out
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "classes": ", ".join(model.labels),
        "held-out images": f"{right} of {total} right ({right / max(total, 1):.1%})",
        "new images, estimated": _percent(estimate.accuracy if estimate else None),
        "soft / pruned": f"{_percent(report.accuracy_soft)} / {_percent(report.accuracy_pruned)}",
        "parameters": f"{report.parameters:,}",
        "file": f"{len(model.onnx) / 1024:.0f} KiB, sha256 {model.info.sha256[:16]}…",
        "seconds a stage": _seconds(report.seconds),
        "unlike the meta-cells": f"{report.meta_genotype_distance} edges",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for cell in read_cells(model.info.genotype_json):
        lines = (f"{node}: {left} + {right}" for node, left, right in cell_rows(cell))
        table.add_row(f"{cell.kind} cell", "\n".join(lines))
    return table


def draw(model: Model, folder: Path) -> tuple[Path, ...]:
    """Write a picture of the cells as SVG and PNG."""
    paths = (folder / "cells.svg", folder / "cells.png")
    for path in paths:
        draw_cells(read_cells(model.info.genotype_json), path)
    return paths


def _percent(value: float | None) -> str:
    return "not defined (one image a class)" if value is None else f"{value:.1%}"


def _seconds(value: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in value.items())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--support", type=Path, default=DIGITS / "support", metavar="FOLDER")
    parser.add_argument("--query", type=Path, default=DIGITS / "query", metavar="FOLDER")
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "meta_checkpoints")
    parser.add_argument("--checkpoint", default="omniglot", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="FOLDER")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
