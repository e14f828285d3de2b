"""Watching a run: its events and its progress, also when it was killed or is damaged."""

import json
import math
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from metanas.__main__ import main
from metanas.runs.log import LOG_FILE, SNAPSHOT_FILE, read_run, training_seconds
from metanas.runs.progress import TrainingDisplay
from metanas.runs.tensorboard import Events
from metanas.training.trainer import Progress
from metanas.util import dataclass_json as schema
from metanas.util.formatting import duration
from tests.core.small import RUN

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = NOW.timestamp() - 3600


def line(iteration: int, **values: object) -> str:
    return json.dumps({"time": START + iteration, "iteration": iteration, **values}) + "\n"


def seen(iteration: int, pruned: float = math.nan) -> Progress:
    return Progress(
        iteration=iteration, loss=0.5, accuracy=0.75, candidates=36, temperature=0.1, entropy=0.2,
        meta_lr_weights=1.0, meta_lr_alphas=0.6, seconds=0.5, soft=pruned, pruned=pruned,
    )  # fmt: skip


def make_run(folder: Path, log: str, *, description: str = "tiny") -> Path:
    """A run's folder as it would be after 6 of 8 iterations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_FILE).write_text(log, encoding="utf-8")
    config = schema.dump(RUN) | {"description": description}
    config["train"] = config["train"] | {"iterations": 8}
    run = json.dumps({"config": config, "iteration": 6})
    header = json.dumps({"__metadata__": {"run": run}}).encode()
    (folder / SNAPSHOT_FILE).write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


LOG = "".join(
    [
        line(2, loss=0.9, accuracy=0.5, candidates=36, soft=None, pruned=None),
        line(4, loss=0.5, accuracy=0.7, candidates=36, soft=0.83, pruned=0.81),
        line(6, loss=math.nan, accuracy=0.8, candidates=30, soft=0.8, pruned=0.80),
    ]
)


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", str(tmp_path)]) == 2
    assert "[RUN_MISSING]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / LOG_FILE).mkdir()
    assert main(["tensorboard", str(tmp_path)]) == 2
    assert "[RUN_UNREADABLE]" in capsys.readouterr().err


def test_a_run_without_a_readable_snapshot_is_unfinished(tmp_path: Path) -> None:
    folder = make_run(tmp_path, LOG + line(8))
    assert read_run(folder).finished
    (folder / SNAPSHOT_FILE).write_bytes(b"damaged")
    assert not read_run(folder).finished
    (folder / SNAPSHOT_FILE).unlink()
    run = read_run(folder)
    assert not run.finished
    assert [record["iteration"] for record in run.records] == [2, 4, 6, 8]


def test_nowhere_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", LOG)
    (tmp_path / "file").write_text("")
    assert main(["tensorboard", str(folder), "--out", str(tmp_path / "file" / "out.html")]) == 2
    assert "[WRITE_FAILED]" in capsys.readouterr().err


def test_pauses_are_no_training(tmp_path: Path) -> None:
    log = "".join(
        line(index, time=START + index + (5000 if index > 5 else 0)) for index in range(9)
    )
    assert training_seconds(read_run(make_run(tmp_path, log)).records) == pytest.approx(11)


def events_of(folder: Path) -> list[Event]:
    """The events, each frame checked as the format has it: length, CRC, data, CRC."""

    def checked(data: bytes, masked: int) -> bytes:
        found = crc32c(data)
        assert masked == (((found >> 15) | (found << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        return data

    (path,) = folder.iterdir()
    raw, events, at = path.read_bytes(), [], 0
    while at < len(raw):
        length, masked = struct.unpack_from("<QI", raw, at)
        checked(raw[at : at + 8], masked)
        data = raw[at + 12 : at + 12 + length]
        events.append(
            Event.FromString(checked(data, *struct.unpack_from("<I", raw, at + 12 + length)))
        )
        at += 16 + length
    return events


def curve(events: Sequence[Event], tag: str) -> list[tuple[int, float]]:
    return [
        (e.step, round(v.simple_value, 5)) for e in events for v in e.summary.value if v.tag == tag
    ]


def test_events_say_what_the_log_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", LOG + line(8, novel=3, name="no number"))
    assert main(["tensorboard", str(folder)]) == 0
    assert main(["tensorboard", str(folder), "--follow"]) == 0  # finished: follows no longer
    events = events_of(folder / "tensorboard")
    assert events[0].file_version == "brain.Event:2"
    assert curve(events, "train/loss") == [(2, 0.9), (4, 0.5)]
    assert curve(events, "validation/pruned") == [(4, 0.81), (6, 0.8)]
    assert curve(events, "search/candidates") == [(2, 36), (4, 36), (6, 30)]
    assert curve(events, "other/novel") == [(8, 3)]
    assert events[-1].wall_time == START + 8
    assert not [e for e in events if any(v.tag in ("other/name", "time") for v in e.summary.value)]


def test_events_follow_a_log_that_grows_and_one_that_was_taken_back(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.other").write_text("not ours")
    events = Events(tmp_path)

    def after(log: str) -> tuple[str, list[tuple[int, float]]]:
        events.write(read_run(make_run(tmp_path / "run", log)).records)
        (path,) = tmp_path.glob("*.metanas")
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / "file").write_bytes(path.read_bytes())
        return path.name, curve(events_of(tmp_path / "copy"), "train/loss")

    first, _ = after(LOG)
    grown, losses = after(LOG + line(8, loss=0.25))
    assert grown == first
    assert losses == [(2, 0.9), (4, 0.5), (8, 0.25)]
    resumed, losses = after(LOG + line(7, loss=0.125))
    assert resumed > first
    assert losses == [(2, 0.9), (4, 0.5), (7, 0.125)]
    events.close()
    assert (tmp_path / "events.out.tfevents.1.other").exists()


def test_durations_in_words() -> None:
    assert [duration(s) for s in (5, 59.7, 3600, 200000)] == [
        "5 s",
        "1 min",
        "1 h 00 min",
        "2 d 7 h",
    ]


def show(console: Console) -> None:
    """Show a run that goes on after its iteration 2."""
    display = TrainingDisplay(8, pytest.fail, console)
    with display.bar:
        display.images(5, 5)
        for iteration in range(3, 9):
            display.iteration(seen(iteration, 0.9 if iteration == 4 else math.nan))


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show(Console(force_terminal=False))
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["trunk:", "4/8", "8/8"]
    assert "loss 0.500 · accuracy 75.0% · validation 90.0% pruned, 90.0% soft · " in lines[1]
    assert lines[1].endswith(" left")
    assert lines[2].endswith("accuracy 75.0%")
    assert "\x1b" not in text


def test_at_a_terminal_there_is_a_bar_and_validations_stay() -> None:
    output = StringIO()
    show(Console(file=output, force_terminal=True, width=80))
    text = output.getvalue()
    assert "━" in text
    assert "8/8" in text
    assert "…" not in text
    assert "4/8 · loss 0.500" in text
    assert "3/8 · loss 0.500" not in text
