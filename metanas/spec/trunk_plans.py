"""Pretrained trunks as data: the published sizes of their inverted residual blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class BlockPlan:
    """Sizes of one inverted residual block."""

    inputs: int
    channels: int
    kernel: int
    stride: int
    expansion: int
    reduced: int
    """Side of the image, divided by the side of the output."""


def plan(stem: int, stages: Sequence[tuple[int, int, int, int, int]]) -> tuple[BlockPlan, ...]:
    """Return the blocks after a stem of stride 2.

    stem: output channels of the stem.
    stages: blocks, kernel, stride of the first block, expansion, channels.
    """
    blocks, inputs, reduced = [], stem, 2
    for count, kernel, first, expansion, channels in stages:
        for index in range(count):
            stride = first if index == 0 else 1
            reduced *= stride
            blocks.append(BlockPlan(inputs, channels, kernel, stride, expansion, reduced))
            inputs = channels
    return tuple(blocks)


TRUNKS: Mapping[str, tuple[BlockPlan, ...]] = MappingProxyType(
    {
        "efficientnet-lite0": plan(
            32,
            (
                (1, 3, 1, 1, 16),
                (2, 3, 2, 6, 24),
                (2, 5, 2, 6, 40),
                (3, 3, 2, 6, 80),
                (3, 5, 1, 6, 112),
                (4, 5, 2, 6, 192),
                (1, 3, 1, 6, 320),
            ),
        )
    }
)
"""EfficientNet-Lite0: Tan & Le, arXiv:1905.11946, table 1, in the variant that its authors
published for small devices, without squeeze-and-excitation and with ReLU6."""
