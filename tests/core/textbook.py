"""The method as a reader of the papers would write it: the oracle of the tests and benchmarks.

One module call for every operation on every edge, an explicit sum over pairs of inputs, an explicit
loop over classes, tensors as they come, nothing shared, merged or dropped; a step on the alphas and
then one on the weights, each with its own pass (DARTS, arXiv:1806.09055, algorithm 1, first order;
MetaNAS, arXiv:1911.11090). Parameters have the names that they have in a checkpoint.

Only what decides *which* numbers go in is shared with the product: the random views, the
mini-batches, the temperatures.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metanas.checkpoint import Checkpoint
from metanas.images.augment import affine_views
from metanas.images.batches import batches_of
from metanas.images.support_set import SupportSet
from metanas.spec.genotype import CELL_KINDS
from metanas.spec.options import AdaptConfig, AffineRange
from metanas.spec.search_space import SearchSpace
from metanas.supernet.relaxations import annealed

Shares = Mapping[str, Tensor]
"""Kind of cell -> what every operation counts on every edge, of shape (edges, ops)."""


class Sequence(nn.Sequential):
    """Layers one after the other; norms among them are told how many rows are the support set."""

    def forward(self, x: Tensor, support: int) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, support) if isinstance(layer, Norm) else layer(x)
        return x


class Norm(nn.Module):
    """Batch normalisation without scale and shift, by the statistics of the first rows."""

    def forward(self, x: Tensor, support: int) -> Tensor:
        variance, mean = torch.var_mean(x[:support], (0, 2, 3), correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5)


class FactorizedReduce(nn.Module):
    """Half the resolution: 1x1 convolutions of stride 2, one of them moved by a pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.straight = nn.Parameter(torch.empty(outputs - outputs // 2, inputs, 1, 1))
        self.shifted = nn.Parameter(torch.empty(outputs // 2, inputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        moved = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        halves = [F.conv2d(x, self.straight, stride=2), F.conv2d(moved, self.shifted, stride=2)]
        return torch.cat(halves, dim=1)


class Zero(nn.Module):
    """No connection."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def separable(channels: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """ReLU, 3x3 depthwise, 1x1, norm."""
    depthwise = nn.Conv2d(
        channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False
    )
    return [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), Norm()]


def skip(channels: int, stride: int) -> list[nn.Module]:
    """The identity, or half the resolution."""
    return [] if stride == 1 else [nn.ReLU(), FactorizedReduce(channels, channels), Norm()]


def cross(channels: int, stride: int) -> list[nn.Module]:
    """ReLU, 1x5, 5x1, norm."""
    across = nn.Conv2d(channels, channels, (1, 5), (1, stride), (0, 2), bias=False)
    down = nn.Conv2d(channels, channels, (5, 1), (stride, 1), (2, 0), bias=False)
    return [nn.ReLU(), across, down, Norm()]


LAYERS: Mapping[str, Callable[[int, int], list[nn.Module]]] = {
    "max_pool_3x3": lambda _, stride: [nn.MaxPool2d(3, stride, 1), Norm()],
    "avg_pool_3x3": lambda _, stride: [
        nn.AvgPool2d(3, stride, 1, count_include_pad=False),
        Norm(),
    ],
    "skip_connect": skip,
    "conv_1x5_5x1": cross,
    "conv_3x3": separable,
    "sep_conv_3x3": lambda c, stride: [*separable(c, stride), *separable(c, 1)],
    "dil_conv_3x3": lambda c, stride: separable(c, stride, dilation=2),
    "zero": lambda _, stride: [Zero(stride)],
}


class TextbookCell(nn.Module):
    """Every candidate on every edge; a node is the sum of its edges, and the output all nodes."""

    def __init__(
        self, space: SearchSpace, index: int, inputs: tuple[int, int], alive: Tensor
    ) -> None:
        super().__init__()
        width = space.channels[index]
        self.kind = "reduce" if index in space.reductions else "normal"
        self.alive = alive.tolist()
        halve = index - 1 in space.reductions
        before = FactorizedReduce(inputs[0], width) if halve else _pointwise(inputs[0], width)
        self.before = Sequence(nn.ReLU(), before, Norm())
        self.last = Sequence(nn.ReLU(), _pointwise(inputs[1], width), Norm())
        self.edges = nn.ModuleList()
        self.sources = [source for node in range(space.nodes) for source in range(node + 2)]
        for source in self.sources:
            stride = 2 if self.kind == "reduce" and source < 2 else 1
            ops = [Sequence(*LAYERS[name](width, stride)) for name in space.ops]
            self.edges.append(nn.ModuleList(ops))

    def forward(self, before: Tensor, last: Tensor, support: int, shares: Tensor) -> Tensor:
        states = [self.before(before, support), self.last(last, support)]
        for edge, source in enumerate(self.sources):
            if source == 0:  # the first edge of the next node
                states.append(torch.zeros(()))
            candidates = self.edges[edge]
            assert isinstance(candidates, nn.ModuleList)
            for op, module in enumerate(candidates):
                if self.alive[edge][op]:
                    out = module(states[source], support)
                    states[-1] = states[-1] + shares[edge, op] * out
        return torch.cat(states[2:], dim=1)


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def stem(space: SearchSpace) -> Sequence:
    """3x3 convolutions with a ReLU between them; the last one strides."""
    widths = (space.input_channels, *space.stem_channels)
    layers = list[nn.Module]()
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), Norm(), nn.ReLU()]
    last = nn.Conv2d(widths[-2], widths[-1], 3, space.stem_stride, padding=1, bias=False)
    return Sequence(*layers, last, Norm())


class TextbookSupernet(nn.Module):
    """Stem, cells, global average. `alive` says which candidates the meta-architecture has left."""

    def __init__(self, space: SearchSpace, alive: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.space, self.alive = space, alive
        edges = sum(node + 2 for node in range(space.nodes))
        pairs = sum(len(list(combinations(range(node + 2), 2))) for node in range(space.nodes))
        self.alpha = nn.ModuleDict()
        for kind in CELL_KINDS:
            ops = nn.Parameter(torch.empty(edges, len(space.ops)))
            self.alpha[kind] = nn.ParameterDict(
                {"ops": ops, "inputs": nn.Parameter(torch.empty(pairs))}
            )
        self.stem = stem(space)
        self.cells = nn.ModuleList()
        widths = (space.stem_channels[-1],) * 2
        for index, channels in enumerate(space.channels):
            kind = "reduce" if index in space.reductions else "normal"
            self.cells.append(TextbookCell(space, index, widths, alive[kind]))
            widths = (widths[1], space.nodes * channels)
        self.head = nn.ParameterDict({"log_scale": nn.Parameter(torch.empty(()))})

    def shares(self, temperature: float) -> Shares:
        """The share of every candidate: the weights of its edge's pairs times its own weight."""
        return {kind: self._shares_of(kind, temperature) for kind in CELL_KINDS}

    def _shares_of(self, kind: str, temperature: float) -> Tensor:
        ops = self.get_parameter(f"alpha.{kind}.ops")
        inputs = self.get_parameter(f"alpha.{kind}.inputs")
        logits = torch.where(self.alive[kind], ops, -torch.inf)
        edge = pair = 0
        rows = []
        for node in range(self.space.nodes):
            pairs = list(combinations(range(node + 2), 2))
            weights = torch.softmax(inputs[pair : pair + len(pairs)] / temperature, dim=0)
            for source in range(node + 2):
                gate = sum(w for w, p in zip(weights, pairs, strict=True) if source in p)
                rows.append(gate * torch.softmax(logits[edge] / temperature, dim=0))
                edge += 1
            pair += len(pairs)
        return torch.stack(rows)

    def forward(self, x: Tensor, support: int, shares: Shares) -> Tensor:
        """Features `(N, D)` of images `(N, C, H, W)`, the first `support` of them the support."""
        before = last = self.stem(x, support)
        for cell in self.cells:
            assert isinstance(cell, TextbookCell)
            before, last = last, cell(before, last, support, shares[cell.kind])
        return self.pooled(last)

    def pooled(self, last: Tensor) -> Tensor:
        """Means over the whole of the maps, or over their quarters, which overlap in the middle."""
        if self.space.grid == 1:
            return last.mean(dim=(2, 3))
        half = -(-last.shape[-1] // 2)
        rows = (last[:, :, :half], last[:, :, -half:])
        fields = [each for row in rows for each in (row[..., :half], row[..., -half:])]
        return torch.stack([field.mean(dim=(2, 3)) for field in fields], dim=2).flatten(1)


def textbook_of(checkpoint: Checkpoint) -> TextbookSupernet:
    """The checkpoint's supernet, written out, with a copy of its parameters."""
    alive = {kind: checkpoint.supernet.cell_alpha(kind).alive for kind in CELL_KINDS}
    network = TextbookSupernet(checkpoint.card.space, alive)
    network.load_state_dict({name: value.clone() for name, value in checkpoint.params.items()})
    return network


def held_out_loss(features: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy of views (second half of the rows) against prototypes of images (first half).

    The prototype of a view's own class leaves out the view's image if the class has another one.
    """
    images, views = features.chunk(2)
    _, own = labels.unique(return_inverse=True)
    members = F.one_hot(own).T.expand(len(own), -1, -1)  # (views, ways, images)
    others = members * (1 - torch.eye(len(own), dtype=own.dtype))[:, None, :]
    chosen = torch.where(others.sum(dim=2, keepdim=True) > 0, others, members).to(features.dtype)
    prototypes = (chosen @ images) / chosen.sum(dim=2, keepdim=True)
    distances = (views[:, None, :] - prototypes).square().sum(dim=2)
    return F.cross_entropy(-scale * distances, own)


class TextbookTask:
    """One task under way: a network of its own, Adam for the weights and Adam for the alphas."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        support: SupportSet,
        config: AdaptConfig,
        generator: torch.Generator,
    ) -> None:
        self.network = textbook_of(checkpoint)
        self.support, self.config = support, config
        self.augment: AffineRange = checkpoint.card.augment
        self.generator = generator
        self.batches: Iterator[Tensor] = batches_of(support.labels, config.batch_size, generator)
        named = dict(self.network.named_parameters())
        self.alphas = [value for name, value in named.items() if name.startswith("alpha.")]
        self.weights = [value for name, value in named.items() if not name.startswith("alpha.")]
        self.alpha_adam = torch.optim.Adam(self.alphas, lr=config.alpha_lr)
        self.weight_adam = torch.optim.Adam(self.weights, lr=config.weight_lr)

    def loss(self, rows: Tensor, temperature: float) -> Tensor:
        """The loss of these support images and fresh views of them."""
        images, labels = self.support.images[rows], self.support.labels[rows]
        x = torch.cat([images, affine_views(images, self.augment, self.generator)])
        features = self.network(x, len(rows), self.network.shares(temperature))
        return held_out_loss(features, labels, self.network.head["log_scale"].exp())

    def alternating_step(self, temperature: float) -> float:
        """A step on the alphas, then one on the weights; the loss that the latter saw."""
        rows = next(self.batches)
        self.loss(rows, temperature).backward(inputs=self.alphas)
        self._apply(self.alphas, self.alpha_adam)
        loss = self.loss(rows, temperature)
        loss.backward(inputs=self.weights)
        self._apply(self.weights, self.weight_adam)
        return loss.item()

    def joint_step(self, temperature: float) -> float:
        """One pass for both, as the product steps: the oracle of its trajectory."""
        loss = self.loss(next(self.batches), temperature)
        loss.backward()
        self._apply(self.alphas, self.alpha_adam)
        self._apply(self.weights, self.weight_adam)
        return loss.item()

    def _apply(self, parameters: list[nn.Parameter], adam: torch.optim.Adam) -> None:
        nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)
        adam.step()
        adam.zero_grad()


def textbook_adapt(
    checkpoint: Checkpoint,
    support: SupportSet,
    config: AdaptConfig,
    generator: torch.Generator,
    *,
    alternate: bool = True,
) -> dict[str, Tensor]:
    """All of the steps of an adaptation; the parameters that they lead to.

    alternate: a step on the alphas and one on the weights in turn; otherwise both from one pass.
    """
    task = TextbookTask(checkpoint, support, config, generator)
    step = task.alternating_step if alternate else task.joint_step
    for index in range(config.steps):
        step(annealed(config.temperature_start, config.temperature_end, index, config.steps))
    return {name: value.detach() for name, value in task.network.named_parameters()}
