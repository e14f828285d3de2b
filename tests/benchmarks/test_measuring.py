"""What the benchmarks' figures rest on: turns, ratios, counted work, memory, tables, the page."""

import os
import re
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import metanas
from benchmarks import adapt, export, memory, page, query, server, together
from benchmarks._cases import SHIPPED, Case, checkpoint_of, examples_of, task_of
from benchmarks._goals import goals
from benchmarks._machine import ROOT, allocator, peak, status
from benchmarks._measure import LEAST, in_turns, ratio, spread
from benchmarks._profile import KINDS, PARTS, parts_of
from benchmarks._results import Results, Row, figure, load, save, table
from benchmarks._work import work_of
from benchmarks.scaling import BASE, SIZES
from metanas.export.onnx_model import to_onnx


@pytest.mark.parametrize("size", ["width", "cells"])
def test_networks_of_every_size_can_be_made(size: str) -> None:
    for value in SIZES[size]:
        case = Case(**{**asdict(BASE), size: value})
        assert vars(case)[size] == value
        assert checkpoint_of(case).card.space.cells == case.cells


def test_candidates_take_turns_in_an_order_that_reverses() -> None:
    calls: list[tuple[str, int]] = []

    def candidate(name: str, index: int) -> int:
        calls.append((name, index))
        return index

    names = ("a", "b")
    found = in_turns({n: lambda i, n=n: candidate(n, i) for n in names}, 3)  # type: ignore[misc]
    assert found == {"a": [0, 1, 2], "b": [0, 1, 2]}
    warm_up, rounds = calls[:2], calls[2:]
    assert warm_up == [("a", 0), ("b", 0)]
    assert rounds == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def test_no_round_begins_after_the_budget_but_the_first_ones() -> None:
    assert in_turns({"a": lambda index: index}, 50, budget=0.0) == {"a": list(range(LEAST))}


def test_a_ratio_lies_in_its_interval_and_a_wide_spread_makes_that_wide() -> None:
    random = np.random.default_rng(0)
    fast, slow = (list(middle + random.normal(0, 0.1, 40)) for middle in (1.0, 3.0))
    found = ratio(slow, fast)
    assert found.low < found.value < found.high
    assert found.low < 3.0 < found.high
    noisy = ratio(list(3.0 + random.normal(0, 1.0, 40)), fast)
    assert noisy.high - noisy.low > 2 * (found.high - found.low)


def test_a_spread_has_the_order_of_its_figures() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.least, found.quartiles, found.median) == (1.0, (2.0, 4.0), 3.0)
    assert (found.most, found.runs) == (5.0, 5)


@pytest.mark.parametrize("groups", [1, 6])
def test_the_work_of_a_convolution_is_counted_in_both_directions(groups: int) -> None:
    layer = nn.Conv2d(6, 6, 3, padding=1, groups=groups, bias=False)
    x = torch.rand(2, 6, 5, 5, requires_grad=True)
    forward = 2 * (2 * 6 * 5 * 5) * (6 // groups) * 9

    def both() -> None:
        out: Tensor = layer(x)
        torch.autograd.grad(out.sum(), [x, layer.weight])

    assert work_of(lambda: layer(x))["flops"] == forward
    assert work_of(both)["flops"] == 3 * forward
    assert work_of(lambda: layer(x))["bytes"] == 4 * (2 * x.numel() + layer.weight.numel())


def test_views_are_no_work_and_every_kernel_is() -> None:
    x = torch.rand(4, 4)
    assert work_of(lambda: x.t()[1:].reshape(-1, 1)[:2].unsqueeze(0))["kernels"] == 1  # a copy
    found = work_of(lambda: F.relu(x @ x))
    assert found == {"kernels": 2, "flops": 2 * 4**3, "bytes": 4 * (3 * 16 + 2 * 16)}


def test_the_parts_of_a_profile_are_wholes() -> None:
    weight = torch.rand(64, 64, requires_grad=True)
    adam = torch.optim.Adam([weight])

    def step() -> None:
        (weight @ weight).sum().backward()
        adam.step()

    parts = parts_of(step)
    assert set(parts) == set(PARTS)
    assert all(0 < parts[name] < 1 for name in ("forward", "backward", "optimizer"))
    assert sum(parts[name] for name in (*KINDS, "other kernels")) == pytest.approx(1.0)
    assert parts["matrix product"] > 0


def test_the_peak_counts_what_was_given_back() -> None:
    before = status()["VmRSS"]
    block = np.ones(64 * 2**20, dtype=np.uint8)
    resident = status()["VmRSS"]
    assert peak() >= resident >= before + block.nbytes // 2
    size = block.nbytes
    del block
    assert peak() >= before + size // 2


@pytest.mark.skipif(find_library("tcmalloc_minimal") is None, reason="tcmalloc is not installed")
def test_the_allocator_is_that_of_the_process() -> None:
    command = [sys.executable, "-c", "input(print(flush=True))"]
    for preloaded in ("", find_library("tcmalloc_minimal")):
        environment = {**os.environ, "LD_PRELOAD": preloaded or ""}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            assert (allocator(process.pid) == "tcmalloc") == bool(preloaded)
            process.communicate(b"\n")


CASES = (*adapt.cases(), *export.CASES, *memory.CASES, *query.CASES, *server.CASES)


@pytest.mark.parametrize(
    ("network", "size", "channels"),
    dict.fromkeys((case.network, case.size, case.channels) for case in CASES),
)
def test_every_case_has_a_network_and_images(network: str, size: int, channels: int) -> None:
    case = Case(network=network, ways=20, shots=2, size=size, channels=channels)
    examples = examples_of(case, 3)
    assert examples == examples_of(case, 3)
    assert examples != examples_of(case, 4)
    checkpoint = checkpoint_of(case)
    wanted = checkpoint.card.input
    assert (wanted.size, wanted.channels) == (size, channels)
    task = task_of(checkpoint, case, 3)
    assert {image.shape for image in task.images} == {(size, size, channels)}
    assert task.support.shots == (2,) * 20


@pytest.mark.parametrize(
    "case",
    [case for case in export.CASES if case.network in SHIPPED and case.shots == 1],
    ids=lambda case: case.name,
)
def test_what_is_exported_is_what_a_request_gets(case: Case) -> None:
    checkpoint = checkpoint_of(case)
    options = checkpoint.card.defaults.replace({"steps": 0, "tuning_steps": 0})
    model = metanas.adapt(checkpoint, examples_of(case, 0), options=options)
    classifier = export.classifier_of(checkpoint, task_of(checkpoint, case, 0))
    measured = to_onnx(classifier, checkpoint.ops, {})
    assert measured.graph == onnx.load_from_string(model.onnx).graph


def test_adaptations_are_counted_by_those_that_ended() -> None:
    """Of several kinds one after the other there are more than jobs together."""
    rows = [
        {"title": "mixed", "threads": 1, "jobs": jobs, "ends": [ends]}
        for jobs, ends in ((1, [1.0, 2.0, 3.0, 4.0]), (8, [1.0] * 4 + [4.0] * 4))
    ]
    lines = together.tables(Results("together", MACHINE, rows))["together"].splitlines()
    rates = [[cell.strip() for cell in line.split("|")][5:7] for line in lines[2:]]
    assert rates == [["1.00", "1.00"], ["2.00", "2.00"]]


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    results = Results("memory", {"cores": 2}, [{"adaptations": 0, "workers": 1.5}, {"a": [1, 2]}])
    save(results, tmp_path / "here" / "memory.json")
    assert load(tmp_path / "here" / "memory.json") == results


def test_a_table_lines_up() -> None:
    lines = table(["name", "x"], [["a", "1.00"], ["longer", "12.0"]]).splitlines()
    assert {len(line) for line in lines} == {len("| longer | 12.0 |")}
    assert lines[1] == "|--------|-----:|"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.034, "0.03"), (1.234, "1.23"), (56.78, "56.8"), (1234.5, "1,234")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


MACHINE = {
    "processor": "P", "cores": 2, "load": 0.1, "gpu": None,
    "torch": "2", "onnxruntime": "1", "revision": "r",
}  # fmt: skip
ROWS = [{"threads": 1, "adaptations": 50, "workers": 2**20 * 300, "front": 2**20 * 60}]


def stored(folder: Path) -> Path:
    path = folder / "box" / "memory.json"
    save(Results("memory", MACHINE, ROWS), path)
    return path


def test_the_page_gets_the_tables_and_is_checked_against_them(tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    block = "<!-- box/memory growth -->\n<!-- / -->"
    written.write_text(f"# Page\n\n{block}\n\nKept.\n", encoding="utf-8")
    arguments = [str(stored(tmp_path)), "--page", str(written)]
    with pytest.raises(SystemExit, match="run this without --check"):
        page.main([*arguments, "--check"])
    page.main(arguments)
    page.main([*arguments, "--check"])
    text = written.read_text(encoding="utf-8")
    assert "| 50          |" in text
    assert text.startswith("# Page\n")
    assert text.endswith("<!-- / -->\n\nKept.\n")


@pytest.mark.parametrize("block", ["", "<!-- box/memory shrinkage -->\n<!-- / -->"])
def test_a_page_without_the_place_for_a_table_is_refused(tmp_path: Path, block: str) -> None:
    with pytest.raises(ValueError, match=r"no block|no table shrinkage"):
        page.filled(block, stored(tmp_path))


def test_goals_are_compared_with_the_best_that_was_measured() -> None:
    def whole(threads: int, seconds: float) -> Row:
        times = {"product": {"whole": [seconds] * 3}}
        return {"case": "shipped-28-5w1s", "threads": threads, "seconds": times}

    slow, fast = whole(1, 1.5), whole(2, 0.5)
    for rows, measured, reached in (([slow], "1.50 s", "no"), ([slow, fast], "0.50 s", "yes")):
        lines = goals([Results("adapt", MACHINE, rows)]).splitlines()
        first, second = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]
        )
        assert first[1:] == ["≤ 1 s", measured, "3", reached]
        assert second[1:] == ["≤ 2 s", "not measured", "", ""]


@pytest.mark.parametrize(
    ("times", "shown", "reached"),
    [
        ([4.4, 4.5, 4.6], "4.50 times (4.40 to 4.60)", "yes"),
        ([3.5, 4.1, 4.9], "4.10 times (3.50 to 4.90)", "unclear"),
        ([3.1, 3.2, 3.3], "3.20 times (3.10 to 3.30)", "no"),
    ],
)
def test_a_goal_within_an_interval_is_not_surely_reached(
    times: list[float], shown: str, reached: str
) -> None:
    taken = {"textbook": {"adapt": times}, "product": {"adapt": [1.0] * 3}}
    rows = [{"case": "paper-28-5w1s", "threads": 1, "seconds": taken}]
    shown_goals = goals([Results("adapt", MACHINE, rows)]).splitlines()
    (line,) = [line for line in shown_goals if "paper's network, 28×28" in line]
    assert [cell.strip() for cell in line.split("|")][3:6] == [shown, "3", reached]


def test_clients_are_compared_with_one_and_as_many_workers() -> None:
    def load(workers: int, clients: int, whole: float) -> Row:
        case = {"case": "shipped-28-5w1s", "workers": workers, "clients": clients}
        return {**case, "latencies": [1.0] * 16, "whole": whole}

    rows = [load(1, 1, 8.0), load(1, 16, 6.4), load(2, 1, 16.0), load(2, 16, 4.0)]
    lines = goals([Results("server", MACHINE, rows)]).splitlines()
    told = [line for line in lines if "| 16 clients" in line or "| … two workers" in line]
    assert ["1.25 times" in told[0], "4.00 times" in told[1]] == [True, True]


def test_every_table_says_what_it_was_measured_on() -> None:
    blocks = re.findall(r"<!-- (\S+/\S+) (\S+) -->", page.PAGE.read_text(encoding="utf-8"))
    assert {name for name, _ in blocks} == {name for name, what in blocks if what == "machine"}


def test_the_pages_say_what_the_stored_results_say() -> None:
    pages = {page.PAGE, *(path for paths in page.PAGES.values() for path in paths)}
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    shown = set(re.findall(r"<!-- (\S+/\S+) \S+ -->\n(?!<!-- / -->|Not measured)", text))
    results = ROOT / "benchmarks" / "results"
    stored = {path for path in results.glob("*/*.json") if path.parent.name != "local"}
    assert shown == {f"{path.parent.name}/{path.stem}" for path in stored}
    if stored:
        page.main(["--check", *map(str, stored)])
