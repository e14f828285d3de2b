"""The benchmarks' harness: turns, ratios, counted work, memory, workloads and tables."""

import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import adapt, export, memory, query, server
from benchmarks.harness.machine import allocator, peak, status
from benchmarks.harness.results import Results, load, save
from benchmarks.harness.roofline import least_seconds, work_of
from benchmarks.harness.tables import figure, ranged, table
from benchmarks.harness.timing import LEAST_ROUNDS, in_turns, ratio, spread
from benchmarks.harness.workloads import Workload, checkpoint_of, examples_of, task_of
from benchmarks.scaling import SIZES, with_size


def test_candidates_take_turns_in_an_order_that_reverses() -> None:
    calls: list[tuple[str, int]] = []

    def candidate(name: str, index: int) -> int:
        calls.append((name, index))
        return index

    names = ("a", "b")
    results = in_turns({n: lambda i, n=n: candidate(n, i) for n in names}, 3)  # type: ignore[misc]
    assert results == {"a": [0, 1, 2], "b": [0, 1, 2]}
    warm_up, rounds = calls[:2], calls[2:]
    assert warm_up == [("a", 0), ("b", 0)]
    assert rounds == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def test_no_round_begins_after_the_budget_but_the_first_ones() -> None:
    assert in_turns({"a": lambda index: index}, 50, budget=0.0) == {"a": list(range(LEAST_ROUNDS))}


def test_a_ratio_lies_in_its_interval_and_a_wide_spread_makes_that_wide() -> None:
    random = np.random.default_rng(0)
    fast, slow = (list(middle + random.normal(0, 0.1, 40)) for middle in (1.0, 3.0))
    times = ratio(slow, fast)
    assert times.low < times.value < times.high
    assert times.low < 3.0 < times.high
    noisy = ratio(list(3.0 + random.normal(0, 1.0, 40)), fast)
    assert noisy.high - noisy.low > 2 * (times.high - times.low)


def test_a_spread_has_the_order_of_its_figures() -> None:
    summary = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (summary.quartiles, summary.median) == ((2.0, 4.0), 3.0)
    assert (summary.most, summary.runs) == (5.0, 5)


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
    work = work_of(lambda: F.relu(x @ x))
    assert work == {"kernels": 2, "flops": 2 * 4**3, "bytes": 4 * (3 * 16 + 2 * 16)}


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


WORKLOADS = (
    *adapt.WORKLOADS,
    *export.WORKLOADS,
    *memory.WORKLOADS,
    *query.WORKLOADS,
    *server.WORKLOADS,
)


@pytest.mark.parametrize(
    ("network", "size", "channels"),
    dict.fromkeys((each.network, each.size, each.channels) for each in WORKLOADS),
)
def test_every_workload_has_a_network_and_images(network: str, size: int, channels: int) -> None:
    workload = Workload(network=network, ways=20, shots=2, size=size, channels=channels)
    examples = examples_of(workload, 3)
    assert examples == examples_of(workload, 3)
    assert examples != examples_of(workload, 4)
    checkpoint = checkpoint_of(workload)
    spec = checkpoint.card.input
    assert (spec.size, spec.channels) == (size, channels)
    task = task_of(checkpoint, workload, 3)
    assert {image.shape for image in task.images} == {(size, size, channels)}
    assert task.support.shots == (2,) * 20


@pytest.mark.parametrize("name", ["width", "cells"])
def test_networks_of_every_size_can_be_made(name: str) -> None:
    for value in SIZES[name]:
        workload = with_size(name, value)
        assert vars(workload)[name] == value
        assert checkpoint_of(workload).card.space.cells == workload.cells


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


def test_a_range_is_written_where_values_differ() -> None:
    assert ranged([2.0, 2.0]) == "2.00"
    assert ranged([10.0, 11.0, 13.0]) == "11.0 (10.0 to 13.0)"


def test_the_slower_of_arithmetic_and_memory_limits_a_step() -> None:
    speed = {"flops": 10.0, "bytes": 2.0}
    assert least_seconds({"flops": 100.0, "bytes": 8.0}, speed) == 10.0
    assert least_seconds({"flops": 10.0, "bytes": 8.0}, speed) == 4.0
