"""Watching a run: its page, its events, its progress; also when it was killed or is damaged."""

import json
import math
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from metanas.__main__ import main
from metanas.cli.runs import cells_of
from metanas.runs.cell_diagram import cell_picture
from metanas.runs.charts import Chart, Line, draw, ticks
from metanas.runs.html_report import page
from metanas.runs.log import LOG_FILE, SNAPSHOT_FILE, read_run, seconds_of
from metanas.runs.progress import WINDOW, Rate, pace, watching
from metanas.runs.tensorboard import Events
from metanas.testing import make_checkpoint
from metanas.training.config_file import read_config, to_toml
from metanas.training.trainer import Progress
from metanas.util import dataclass_json as schema
from metanas.util.formatting import duration, number_text
from tests.core.small import GENOTYPE, RUN

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = NOW.timestamp() - 3600
EVIL = '<script>alert("1")</script>'


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


class Elements(HTMLParser):
    """What a page is made of, checked for elements that are closed in order."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str, name: str) -> int:
        return sum(t == tag and a.get("class") == name for t, a in self.found)


def test_a_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, LOG))
    text = page(run, [(4, GENOTYPE)], NOW)
    elements = Elements(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in elements.found}
    assert not re.search(r"https?:|url\(|@import|src=|href=", text)
    assert elements.count("svg", "cell") == 2
    # accuracy of validation, loss, accuracy, candidates; what the log has not has no chart
    assert elements.count("svg", "chart") == 4
    words = " ".join(elements.words)
    for said in (
        "81.0%",
        "unfinished: 75%",
        "of 8 meta-iterations",
        "meta lr weights",
        "skip_connect",
    ):
        assert said in words
    assert f"python -m metanas train config.toml --resume --out {tmp_path}" in words


def test_nothing_of_a_run_becomes_markup(tmp_path: Path) -> None:
    evil = {"normal": [[[0, EVIL], [1, "b"]]], "reduce": [[[0, "a"], [1, EVIL]]]}
    log = LOG + line(7, pruned=0.1, genotype=evil)
    run = read_run(make_run(tmp_path / "<b>", log, description=EVIL))
    text = page(run, cells_of(run), NOW)
    assert "alert" in text
    assert EVIL not in text
    assert "<b>&" not in text
    assert "script" not in {tag for tag, _ in Elements(text).found}


def test_a_killed_run_has_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", LOG + "[]\n\n" + line(8, loss=0.1)[:-9])
    (folder / SNAPSHOT_FILE).write_bytes(b"\xff" * 20)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = tmp_path / "pages" / "page.html"
    assert main(["report", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text(encoding="utf-8")
    assert "2 lines of the log" in text
    assert "no readable snapshot" in text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["run.pdf", "page"])
def test_a_page_is_of_html(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = make_run(tmp_path / "run", LOG)
    assert main(["report", str(folder), "--out", str(tmp_path / name)]) == 2
    assert ".html" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_a_run_that_has_only_begun_has_its_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "")
    assert main(["report", str(folder)]) == 0
    assert "no line yet" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["report", "tensorboard"])
def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        assert main([command, str(folder)]) == 2
        assert "[RUN_MISSING]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["report", "tensorboard"])
def test_nowhere_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    folder = make_run(tmp_path / "run", LOG)
    (tmp_path / "file").write_text("")
    assert main([command, str(folder), "--out", str(tmp_path / "file" / "out.html")]) == 2
    assert "[WRITE_FAILED]" in capsys.readouterr().err


def test_the_configuration_of_the_page_is_read_back(tmp_path: Path) -> None:
    tricky = 'a "quoted" \\ path\twith ü and \x7f'
    run = read_run(make_run(tmp_path, LOG, description=tricky))
    (tmp_path / "config.toml").write_text(to_toml(run.config), encoding="utf-8")
    again = read_config(tmp_path / "config.toml")
    assert json.loads(json.dumps(schema.dump(again))) == run.config
    assert again.description == tricky


def test_the_cells_of_the_log_and_else_of_the_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoint", size=12)
    run = read_run(make_run(tmp_path, LOG))
    assert len(cells_of(run)) == 1
    logged = LOG + line(7, genotype=json.loads(GENOTYPE.to_json())) + line(8, genotype="{}")
    run = read_run(make_run(tmp_path, logged))
    assert cells_of(run) == [(7, GENOTYPE)]


def test_a_cell_shows_every_operation_and_what_is_new() -> None:
    before = (((0, "conv_3x3"), (1, "skip_connect")),)
    picture = cell_picture((((0, "conv_3x3"), (1, "max_pool_3x3")),), "a cell", before)
    assert picture.count('class="op conv"') == 1
    assert picture.count('class="op pool new"') == 1
    assert "node 0 sums conv_3x3 of c(k−2) and max_pool_3x3 of c(k−1)" in picture
    assert " new" not in cell_picture(before, "a cell")


def test_a_long_curve_is_drawn_with_its_spread() -> None:
    def drawn(count: int) -> str:
        points = [(index, float(index % 10)) for index in range(count)]
        chart = Chart(title="loss", unit="", lines=(Line(name="loss", points=points),))
        return draw(chart, count)

    assert "band" in drawn(5000)
    assert "band" not in drawn(100)
    assert len(drawn(5000)) < 20_000


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 3), (0, 0), (-2e-7, 5e-7), (36, 1e7)])
def test_ticks_hold_what_is_drawn(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 9


def test_pauses_are_no_training(tmp_path: Path) -> None:
    log = "".join(
        line(index, time=START + index + (5000 if index > 5 else 0)) for index in range(9)
    )
    assert sum(seconds_of(read_run(make_run(tmp_path, log)))) == pytest.approx(11)


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


def test_the_rate_is_of_this_process_and_of_the_last_minutes() -> None:
    now = 0.0
    rate = Rate(clock=lambda: now)
    rate.add(5000)
    assert rate.value is None
    for iteration in range(5001, 5011):
        now += 2
        rate.add(iteration)
    assert rate.value == pytest.approx(0.5)
    for iteration in range(5011, 6011):
        now += 1
        rate.add(iteration)
    assert rate.value == pytest.approx(1.0)
    assert len(rate.seen) <= WINDOW + 2


def test_pace_in_words() -> None:
    assert pace(None, 10) == ""
    assert pace(2.0, 600) == "2.0 it/s · 5 min left"
    assert pace(0.25, 7200) == "4.0 s/it · 8 h 00 min left"
    assert pace(2.0, 0) == "2.0 it/s"
    assert [duration(s) for s in (5, 59.7, 3600, 200000)] == [
        "5 s",
        "1 min",
        "1 h 00 min",
        "2 d 7 h",
    ]
    assert [number_text(n) for n in (0, 1e-5, 0.05, -0.5, 12000)] == [
        "0", "1e-05", "0.05", "−0.5", "12\u202f000",
    ]  # fmt: skip


def shown(*, terminal: bool) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=200, highlight=False)
    with watching(8, console) as shows:
        shows.images(5, 5)
        for iteration in range(1, 9):
            shows.iteration(seen(iteration, 0.9 if iteration == 4 else math.nan))
    return output.getvalue()


def test_without_a_terminal_there_are_plain_lines() -> None:
    lines = shown(terminal=False).splitlines()
    assert [text.split(" ")[0] for text in lines] == ["trunk:", "4/8", "8/8"]
    assert "loss 0.500 · accuracy 75.0% · validation 90.0% pruned, 90.0% soft" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_at_a_terminal_there_is_a_bar_and_validations_stay() -> None:
    text = shown(terminal=True)
    assert "━" in text
    assert "4/8 · loss 0.500" in text
