"""Metrics of an adaptation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from metanas.adaptation.job import Job
from metanas.adaptation.metrics import gap, macs_of, stream
from metanas.adaptation.scheduler import adapt
from metanas.images.batches import batches_of
from metanas.nn.ops import OPS
from metanas.nn.stem import Stem
from metanas.spec.genotype import Genotype, Node
from metanas.spec.options import AdaptConfig
from metanas.supernet.discrete import DiscreteNetwork
from metanas.testing import freeze, make_checkpoint
from tests.core.small import TINY, examples


def test_multiply_accumulates_are_counted() -> None:
    space = replace(TINY, channels=(4,), reductions=(), nodes=1, stem_channels=(6,), stem_stride=1)
    node: Node = ((0, "conv_3x3"), (1, "skip_connect"))
    network = DiscreteNetwork(space, Genotype((node,), (node,)), OPS)
    freeze(network)
    pixel = 1 * 9 * 6 + 2 * (6 * 4) + (9 * 4 + 4 * 4)  # stem, two inputs, depthwise and pointwise
    assert macs_of(network, torch.zeros(3, 1, 10, 10)) == 3 * 100 * pixel
    assert macs_of(network, torch.zeros(1, 1, 10, 10)) == 100 * pixel


def test_streams_of_other_names_and_seeds_differ() -> None:
    def drawn(seed: int, name: str) -> list[float]:
        values: list[float] = torch.rand(4, generator=stream(seed, name)).tolist()
        return values

    assert drawn(1, "views") == drawn(1, "views")
    assert drawn(1, "views") != drawn(2, "views")
    assert drawn(1, "views") != drawn(1, "batch")
    plain: list[float] = torch.rand(4, generator=torch.Generator().manual_seed(1)).tolist()
    assert drawn(1, "views") != plain


def test_the_report_measures_on_views_that_the_search_has_not_seen(tmp_path: Path) -> None:
    options = AdaptConfig(steps=3, tuning_steps=0)
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12, options=options)
    batches = list[set[bytes]]()

    def note(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, Stem):
            batches.append({row.numpy().tobytes() for row in inputs[0].detach()})

    hook = register_module_forward_pre_hook(note)
    try:
        adapt(checkpoint, examples((2, 2)), seed=3)
    finally:
        hook.remove()
    searched, measured = batches[: options.steps], batches[options.steps :]
    support = searched[0] & searched[1] & searched[2]
    assert len(support) == 4
    seen = searched[0] | searched[1] | searched[2]
    assert measured
    for batch in measured:
        assert batch & seen <= support


def test_the_report_measures_on_a_batch_of_its_own(tmp_path: Path) -> None:
    """The gap is measured on images that the report draws, not on the first batch of the search."""
    options = AdaptConfig(steps=0, tuning_steps=0, batch_size=4)
    checkpoint = make_checkpoint(tmp_path / "tiny", size=12, options=options)
    job = Job(checkpoint, examples((6, 6)), seed=3)
    job.decode()
    assert job.task is not None
    support = job.task.support
    inputs = list[set[bytes]]()

    def note(module: nn.Module, given: Any) -> None:
        if isinstance(module, Stem):
            inputs.append({row.numpy().tobytes() for row in given[0].detach()})

    hook = register_module_forward_pre_hook(note)
    try:
        gap(checkpoint, checkpoint.params, support, options, seed=3)
    finally:
        hook.remove()
    (measured,) = inputs
    shown = {index for index, x in enumerate(support.images) if x.numpy().tobytes() in measured}
    batches = [
        set(next(batches_of(support.labels, 4, generator)).tolist())
        for generator in (stream(3, "report batch"), torch.Generator().manual_seed(3))
    ]
    assert shown == batches[0] != batches[1]
