"""The pruned network: the supernet with the operations of a genotype alone.

Notes:
- Parameters have the supernet's names without the operation's index, so adapted weights carry over
  by name. An edge runs the same module as in the supernet.
- It is the limit of the supernet's mixture at temperature zero: a node is the plain sum of two
  operations. So the soft and the pruned network differ only where the mixture is not one-hot.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.images.shifted_copies import averaged, looks, with_copies
from metanas.nn.functional import Rows, moments
from metanas.nn.ops import Norm, Op, reduce_norm, relu_conv_norm
from metanas.nn.stem import Embedding, entry, halves_before
from metanas.nn.trunk import pooled
from metanas.spec.genotype import Genotype, Node
from metanas.spec.search_space import SearchSpace
from metanas.supernet.flat_params import Params
from metanas.util.work import Parts

FROZEN = Rows(0)
"""For a network with frozen norms, which treats all rows alike."""

CHUNK = 256
"""Most images, shifted copies included, of one pass of a frozen network."""
CHUNK_PIXELS = 2**18
"""Most pixels of one pass."""


class DiscreteCell(nn.Module):
    """A cell whose nodes are sums of two operations each; `edges` by the supernet's edge index."""

    def __init__(
        self,
        space: SearchSpace,
        index: int,
        inputs: tuple[int, int],
        nodes: tuple[Node, ...],
        ops: Mapping[str, Op],
    ) -> None:
        super().__init__()
        width = space.channels[index]
        self.nodes = nodes
        self.reduction = index in space.reductions
        halving = halves_before(space, index)
        self.before = (reduce_norm if halving else relu_conv_norm)(inputs[0], width)
        self.last = relu_conv_norm(inputs[1], width)
        self.edges = nn.ModuleDict()
        for node, source, name in self.chosen():
            stride = 2 if self.reduction and source < 2 else 1
            self.edges[edge_name(node, source)] = ops[name].build(width, stride)

    def chosen(self) -> Iterator[tuple[int, int, str]]:
        """Yield (node, input, operation) of every edge."""
        for node, edges in enumerate(self.nodes):
            for source, name in edges:
                yield node, source, name

    def forward(self, before: Tensor, last: Tensor, rows: Rows) -> Tensor:
        states = [self.before(before, rows), self.last(last, rows)]
        for node, ((left, _), (right, _)) in enumerate(self.nodes):
            one = self.edges[edge_name(node, left)](states[left], rows)
            other = self.edges[edge_name(node, right)](states[right], rows)
            states.append(one + other)
        return torch.cat(states[2:], dim=1)


def edge_name(node: int, source: int) -> str:
    """Return the supernet's name of the edge from input `source` to `node`."""
    return str(sum(earlier + 2 for earlier in range(node)) + source)


class DiscreteNetwork(nn.Module):
    """Stem, discrete cells, global average pooling: images `(N, C, H, W)` to features `(N, D)`.

    After a trunk: its maps `(N, K)` to features.
    """

    def __init__(self, space: SearchSpace, genotype: Genotype, ops: Mapping[str, Op]) -> None:
        super().__init__()
        self.space = space
        self.genotype = genotype
        self.stem = entry(space)
        self.embed = Embedding(space) if space.trunk else None
        self.cells = nn.ModuleList()
        widths = self.stem.widths
        for index, channels in enumerate(space.channels):
            nodes = genotype.reduce if index in space.reductions else genotype.normal
            self.cells.append(DiscreteCell(space, index, widths, nodes, ops))
            widths = (widths[1], space.nodes * channels)
        self.head = nn.ParameterDict({"log_scale": nn.Parameter(torch.tensor(0.0))})

    def forward(self, x: Tensor, rows: Rows = FROZEN) -> Tensor:
        """Compute features; support rows set the statistics of norms that are not frozen."""
        features = self._cells(x, rows) if self.cells else None
        out = features if self.embed is None else self.embed(x, features, rows)
        assert out is not None  # there are cells or a trunk
        return out

    def _cells(self, x: Tensor, rows: Rows) -> Tensor:
        before, last = self.stem(x, rows)
        for cell in self.cells:
            before, last = last, cell(before, last, rows)
        features = pooled(last, self.space.grid)
        return F.normalize(features, dim=1) if self.space.unit else features


def from_supernet(
    space: SearchSpace, params: Params, genotype: Genotype, ops: Mapping[str, Op]
) -> DiscreteNetwork:
    """Build the network of this genotype with copies of the supernet's weights."""
    with torch.device("meta"):  # shapes only: every tensor is about to be replaced
        network = DiscreteNetwork(space, genotype, ops)
    expected = network.state_dict()
    weights = {k: v for k, v in params.items() if k in expected}
    for index, cell in enumerate(network.cells):
        assert isinstance(cell, DiscreteCell)
        for node, source, name in cell.chosen():
            edge = f"cells.{index}.edges.{edge_name(node, source)}."
            prefix = f"{edge}{space.ops.index(name)}."
            for key, value in params.items():
                if key.startswith(prefix):
                    weights[edge + key.removeprefix(prefix)] = value
    network.load_state_dict({k: v.clone() for k, v in weights.items()}, assign=True)
    return network


def chunk_size(images: Tensor, shift_pixels: int) -> int:
    """Return the number of images, or maps of a trunk, for one pass of a frozen network.

    It bounds memory and changes nothing else.
    """
    most = min(CHUNK, CHUNK_PIXELS // math.prod(images.shape[2:]))
    return max(1, most // looks(shift_pixels))


@torch.no_grad()
def features_of(network: DiscreteNetwork, images: Tensor, shift_pixels: int = 0) -> Parts[Tensor]:
    """Compute features `(N, D)` of images `(N, C, H, W)` by a network of frozen norms, in parts.

    shift_pixels: shift of the copies of each image; the features are means over the copies.
    """
    features = []
    for part in images.split(chunk_size(images, shift_pixels)):
        yield
        features.append(averaged(network(with_copies(part, shift_pixels)), shift_pixels))
    return torch.cat(features)


@torch.no_grad()
def freeze_statistics(network: DiscreteNetwork, images: Tensor, chunk: int) -> Parts[Tensor]:
    """Fix every norm to the statistics of the support images `(N, C, H, W)`, in parts.

    Up to `chunk` images are one batch, so that the statistics are exactly those of a step on the
    whole support set. More images run in chunks of nearly equal size, and their moments are pooled.

    Returns the features `(N, D)` of the images.
    """
    norms = [module for module in network.modules() if isinstance(module, Norm)]
    moments_of: dict[Norm, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}
    parts = images.tensor_split(-(-len(images) // chunk))

    def measure(norm: nn.Module, inputs: tuple[Tensor, Rows]) -> None:
        assert isinstance(norm, Norm)
        moments_of[norm].append(moments(inputs[0]))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    features = []
    for part in parts:
        yield
        features.append(network(part, Rows(len(part))))
    for hook in hooks:
        hook.remove()
    weights = torch.tensor([[len(part) / len(images)] for part in parts])
    for norm, measured in moments_of.items():
        means = torch.stack([mean for mean, _ in measured])
        variances = torch.stack([variance for _, variance in measured])
        mean = (weights * means).sum(0)
        norm.freeze(mean, (weights * (variances + (means - mean).square())).sum(0))
    return features[0] if len(parts) == 1 else (yield from features_of(network, images))
