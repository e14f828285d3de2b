"""Copies to a device and waits for it in one step: no more than the design states.

These tests use a simulated device (`tests.core.elsewhere`). On a GPU `test_device` asks the driver.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metanas.adaptation.adaptation import Adaptation, Stage, advance
from metanas.checkpoint import Checkpoint
from metanas.images.support_set import SupportSet
from metanas.nn.devices import upload
from metanas.nn.ops import OPS
from metanas.nn.trunk import Maps
from metanas.spec.options import AdaptConfig
from metanas.supernet.relaxations import RELAXATIONS
from metanas.testing import make_checkpoint
from tests.core.elsewhere import DEVICE, DOWN, UP, Elsewhere, held
from tests.core.small import noise

OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=1e-3, alpha_lr=0.05, patience=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    ops = {name: OPS[name] for name in ("max_pool_3x3", "skip_connect", "dil_conv_3x3")}
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", size=10, ops=ops)


def elsewhere(checkpoint: Checkpoint, device: Elsewhere) -> Checkpoint:
    """The checkpoint on the simulated device."""
    supernet = type(checkpoint.supernet)(checkpoint.card.space, checkpoint.ops)
    for module, own in zip(supernet.modules(), checkpoint.supernet.modules(), strict=True):
        for name, buffer in own.named_buffers(recurse=False):
            module._buffers[name] = device.put(buffer)
    params = {name: device.put(value) for name, value in checkpoint.params.items()}
    return replace(checkpoint, supernet=supernet, params=params)


def begin(checkpoint: Checkpoint, options: AdaptConfig) -> list[Adaptation]:
    """A stack of two tasks with different ways and shots; behind a trunk with stored views."""
    made = []
    for seed, shots in enumerate([(2, 2), (1, 3, 2)]):
        labels = torch.tensor([way for way, count in enumerate(shots) for _ in range(count)])
        images = noise(len(labels), 1, 10, 10, seed=seed).sigmoid()
        views = None
        if checkpoint.card.space.trunk:
            length = Maps(checkpoint.card.space).length(checkpoint.card.input.size)
            images, *others = noise(3 + seed, len(labels), length, seed=seed)
            views = torch.stack(others, dim=1)
        task = SupportSet(images, labels, tuple(map(str, range(len(shots)))), views)
        made.append(Adaptation(checkpoint, task, options, torch.Generator().manual_seed(seed)))
    return made


@pytest.mark.parametrize("change", [{}, {"batch_size": 3}, {"bilevel": True}], ids=str)
def test_a_step_waits_twice_and_uploads_twice(
    checkpoint: Checkpoint, change: dict[str, int]
) -> None:
    check_waiting(checkpoint, change)


def test_so_does_one_behind_a_trunk(tmp_path: Path) -> None:
    ops = {name: OPS[name] for name in ("max_pool_3x3", "skip_connect")}
    folder = tmp_path / "tiny"
    small = make_checkpoint(folder, ops=ops, channels=3, size=16, trunk=True, partial=2)
    check_waiting(small, {"batch_size": 4})


def check_waiting(checkpoint: Checkpoint, change: dict[str, int]) -> None:
    """And what comes out is what comes out on the CPU, bit by bit."""
    options, device = OPTIONS.replace(change), Elsewhere()
    here = begin(checkpoint, options)
    with device:
        there = begin(elsewhere(checkpoint, device), options)
        assert there[0].checkpoint.activation_bytes  # of the checkpoint, once for all its tasks
        while any(each.stage is not Stage.DONE for each in there):
            stages, counts = [each.stage for each in there], counted(device, there)
            if stages == [each.stage for each in there]:
                assert counts == {DOWN: 2, UP: 2}
    while any(each.stage is not Stage.DONE for each in here):
        advance(here)
    for one, other in zip(here, there, strict=True):
        assert one.genotype == other.genotype
        for name, value in one.optimizer.snapshot().items():
            assert torch.equal(value, held(other.optimizer.params[name])), name


def counted(device: Elsewhere, adaptations: list[Adaptation]) -> dict[str, int]:
    """The copies and waits of a step of these adaptations."""
    device.counts.clear()
    advance(adaptations)
    return dict(device.counts)


def test_sampling_sends_its_noise_and_waits_no_more(checkpoint: Checkpoint) -> None:
    device = Elsewhere()
    with device:
        sampled = replace(elsewhere(checkpoint, device), relaxation=RELAXATIONS["gdas"])
        there = begin(sampled, OPTIONS)
        assert sampled.activation_bytes
        assert counted(device, there)[DOWN] == 2


def test_a_task_asks_twice_before_it_begins(checkpoint: Checkpoint) -> None:
    """Not once for each of its hundreds of parameters."""
    device = Elsewhere()
    with device:
        moved = elsewhere(checkpoint, device)
        device.counts.clear()
        begin(moved, OPTIONS)[0].update()
    assert device.counts == {DOWN: 4, UP: 2}  # two tasks


def test_the_device_sees_what_it_is_there_to_see() -> None:
    device = Elsewhere()
    with device:
        there = device.put(torch.arange(3.0))
        assert float(there[1]) == 1
        assert there.tolist() == [0, 1, 2]
        assert device.counts == {DOWN: 2}
        with pytest.raises(AssertionError, match="mixes"):
            there + torch.ones(3)
        with pytest.raises(AssertionError, match="mixes"):
            there[torch.tensor([1])]
        with pytest.raises(AssertionError, match="waits"):
            there[there > 1]


@pytest.mark.parametrize("shapes", [[(3,)], [(2, 3), (5,), ()], [(0,), (1, 2)], []])
def test_tensors_arrive_together_as_they_were(shapes: list[tuple[int, ...]]) -> None:
    kinds = (torch.float32, torch.int64, torch.uint8, torch.float64, torch.bool)
    sent = [(5 * noise(*each)).to(kind) for each, kind in zip(shapes, kinds, strict=False)]
    device = Elsewhere()
    with device:
        arrived = upload(sent, DEVICE)
        assert device.counts[UP] == 1
    for one, other in zip(sent, arrived, strict=True):
        assert other.device == DEVICE
        assert torch.equal(one, held(other))
        assert one.dtype == other.dtype


def test_what_is_on_the_cpu_stays_where_it_is() -> None:
    sent = noise(3)
    (arrived,) = upload([sent], torch.device("cpu"))
    assert arrived is sent
