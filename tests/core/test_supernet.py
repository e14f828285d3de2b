"""The supernet: its fast evaluation against a textbook one, thresholds, masks, and pruning."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metanas.errors import Diverged, UnknownName
from metanas.nn.functional import Rows
from metanas.nn.ops import OPS
from metanas.spec.genotype import CELL_KINDS
from metanas.spec.search_space import SearchSpace
from metanas.supernet.alphas import is_alpha
from metanas.supernet.cell import Cell
from metanas.supernet.discrete import edge_name, from_supernet
from metanas.supernet.flat_params import Params
from metanas.supernet.relaxations import Gumbel, Noisy, PerTask, Softmax
from metanas.supernet.supernet import Supernet, genotype_of, initialise
from tests.core.small import SPACE, TINY, noise, small_supernet
from tests.core.textbook import TextbookSupernet

SUPPORT = Rows(4)
SOFT = Softmax(temperature=0.7)
COLD = Softmax(temperature=1e-4)


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return noise(7, 1, 9, 9).to(dtype)


def textbook_cell(supernet: Supernet, cell: Cell, before: Tensor, last: Tensor) -> Tensor:
    """One call a module, edge and operation; an explicit sum over pairs of inputs."""
    alpha = supernet.cell_alpha("reduce" if cell.reduction else "normal")
    states = [cell.before(before, SUPPORT), cell.last(last, SUPPORT)]
    edge = pair = 0
    for node in range(supernet.space.nodes):
        outputs = []
        for source in range(node + 2):
            logits = alpha.ops[edge] / SOFT.temperature
            weights = logits.exp() / logits.exp().sum()
            candidates = cell.edges[edge]
            assert isinstance(candidates, nn.ModuleList)
            parts = [op(states[source], SUPPORT) for op in candidates]
            outputs.append(sum((w * part for w, part in zip(weights, parts, strict=True))))
            edge += 1
        count = (node + 2) * (node + 1) // 2
        logits = alpha.inputs[pair : pair + count] / SOFT.temperature
        weights = iter(logits.exp() / logits.exp().sum())
        total = torch.zeros(())
        for left in range(node + 2):
            for right in range(left + 1, node + 2):
                total = total + next(weights) * (outputs[left] + outputs[right])
        pair += count
        states.append(total)
    return torch.cat(states[2:], dim=1)


def textbook(supernet: Supernet, x: Tensor) -> Tensor:
    before, last = supernet.stem(x, SUPPORT)
    for cell in supernet.cells:
        assert isinstance(cell, Cell)
        before, last = last, textbook_cell(supernet, cell, before, last)
    features: Tensor = last.mean(dim=(2, 3))
    return features


@pytest.mark.parametrize("size", [8, 11, 12, 13])
@pytest.mark.parametrize("grid", [1, 2])
def test_stem_and_features_are_the_textbooks(size: int, grid: int) -> None:
    space = replace(SPACE, grid=grid, stem_channels=(3, 4, 5), stem_stride=2)
    supernet = small_supernet(space).double()
    alive = {kind: supernet.cell_alpha(kind).alive for kind in CELL_KINDS}
    book = TextbookSupernet(space, alive).double()
    book.load_state_dict(dict(supernet.named_parameters()))
    x = noise(5, 1, size, size).double()
    expected = book(x, SUPPORT.support, book.shares(SOFT.temperature))
    assert expected.shape == (5, space.features)
    torch.testing.assert_close(supernet(x, SUPPORT, SOFT), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_fast_evaluation_is_the_textbook_one(dtype: torch.dtype, tolerance: float) -> None:
    supernet = small_supernet(replace(SPACE, ops=tuple(OPS))).to(dtype)
    x = images(dtype)
    fast, slow = supernet(x, SUPPORT, SOFT), textbook(supernet, x)
    torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)
    weigh = noise(*fast.shape).to(dtype)
    leaves = dict(supernet.named_parameters())
    leaves.pop("head.log_scale")  # not part of the features
    mine = torch.autograd.grad((fast * weigh).sum(), list(leaves.values()))
    theirs = torch.autograd.grad((slow * weigh).sum(), list(leaves.values()))
    for name, one, other in zip(leaves, mine, theirs, strict=True):
        scale = max(1.0, float(other.abs().max()))
        difference = float((one - other).abs().max())
        assert difference <= 10 * tolerance * scale, name


def test_the_gradient_of_the_alphas_is_that_of_finite_differences() -> None:
    supernet = small_supernet(TINY).double()
    x = images(torch.float64)
    params = {k: v.detach() for k, v in supernet.named_parameters()}

    def loss(values: Params) -> Tensor:
        out: Tensor = functional_call(supernet, values, (x, SUPPORT, SOFT))
        return out.square().sum()

    for name in filter(is_alpha, params):
        leaf = params[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss({**params, name: leaf}), leaf)
        assert bool((gradient != 0).any())
        for index in range(leaf.numel()):
            step = torch.zeros(leaf.numel(), dtype=torch.float64)
            step[index] = 1e-6
            step = step.view(leaf.shape)
            up, down = (loss({**params, name: params[name] + s}) for s in (step, -step))
            slope = float(up - down) / 2e-6
            assert float(gradient.flatten()[index]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_shares_of_a_node_sum_to_two_and_small_ones_are_dropped() -> None:
    supernet = small_supernet(spread=2.0)
    alpha = supernet.cell_alpha("normal")
    everything, kept = (alpha(SOFT, floor)[0].detach() for floor in (0.0, 0.05))
    start = 0
    for inputs in (2, 3, 4):
        node = slice(start, start + inputs)
        assert float(everything[node].sum()) == pytest.approx(2.0, abs=1e-5)
        assert float(kept[node].sum()) == pytest.approx(2.0, abs=1e-5)
        survivors = torch.where(everything[node] > 0.05, everything[node], 0.0)
        torch.testing.assert_close(kept[node], survivors * (2.0 / survivors.sum()))
        start += inputs
    assert bool((kept == 0).any())
    assert bool((kept > 0).any(dim=1).any())


def test_dropped_candidates_do_not_run() -> None:
    supernet = small_supernet(spread=2.0)
    live = supernet.cell_alpha("normal")(SOFT, 0.05)[0] > 0
    leaves = dict(supernet.named_parameters())
    gradients = torch.autograd.grad(
        supernet(images(), SUPPORT, SOFT, 0.05).square().sum(),
        list(leaves.values()),
        allow_unused=True,
    )
    by_name = dict(zip(leaves, gradients, strict=True))
    seen = False
    for edge, op in (~live).nonzero().tolist():
        for name, gradient in by_name.items():
            if name.startswith(f"cells.0.edges.{edge}.{op}."):
                seen = True
                assert gradient is None, name
    assert seen


def test_a_threshold_above_every_share_leaves_the_best() -> None:
    supernet = small_supernet(spread=1e-3)
    out = supernet(images(), SUPPORT, Softmax(temperature=1.0), 1.9)
    assert bool(out.isfinite().all())
    shares = supernet.cell_alpha("normal")(Softmax(), 1.9)[0].detach()
    assert float(shares.sum()) == pytest.approx(2.0 * SPACE.nodes, abs=1e-5)


def test_alphas_that_are_not_finite_diverge() -> None:
    supernet = small_supernet()
    for kinds in (CELL_KINDS[:1], CELL_KINDS):
        for kind in kinds:
            supernet.cell_alpha(kind).ops.data.fill_(torch.nan)
        with pytest.raises(Diverged, match="not finite"):
            supernet(images(), SUPPORT, SOFT)


def masked_supernet() -> Supernet:
    """Three candidates of an edge are dead, and all but one of the first edge."""
    supernet = small_supernet(spread=0.1)
    for kind in CELL_KINDS:
        alive = supernet.cell_alpha(kind).alive
        alive[:, 2:5] = False
        alive[0] = False
        alive[0, 3] = True
    return supernet


def is_dead(supernet: Supernet, name: str) -> bool:
    """True if the weight of this name belongs to an operation that is not alive."""
    parts = name.split(".")
    if "edges" not in parts:
        return False
    kind = "reduce" if int(parts[1]) in supernet.space.reductions else "normal"
    return not bool(supernet.cell_alpha(kind).alive[int(parts[3]), int(parts[4])])


def test_operations_that_are_not_alive_get_no_gradient() -> None:
    supernet = masked_supernet()
    leaves = dict(supernet.named_parameters())
    relaxation = PerTask((Noisy(Softmax(), 1.0),), (torch.Generator().manual_seed(3),))
    out = supernet(images(), SUPPORT, relaxation)
    gradients = torch.autograd.grad(
        (out * noise(*out.shape)).sum(),
        list(leaves.values()),
        materialize_grads=True,
        allow_unused=True,
    )
    by_name = dict(zip(leaves, gradients, strict=True))
    dead = [gradient for name, gradient in by_name.items() if is_dead(supernet, name)]
    assert dead
    assert all(bool((gradient == 0).all()) for gradient in dead)
    for kind in CELL_KINDS:
        gradient = by_name[f"alpha.{kind}.ops"]
        alive = supernet.cell_alpha(kind).alive
        assert bool((gradient[~alive] == 0).all())
        assert bool((gradient[1:][alive[1:]] != 0).all())


def test_what_is_not_sampled_does_not_run_and_every_alpha_learns() -> None:
    supernet = small_supernet(spread=0.1)
    leaves = dict(supernet.named_parameters())
    relaxation = PerTask((Gumbel(),), (torch.Generator().manual_seed(0),))
    out = supernet(images(), SUPPORT, relaxation, 0.02)
    gradients = torch.autograd.grad(
        (out * noise(*out.shape)).sum(), list(leaves.values()), allow_unused=True
    )
    by_name = dict(zip(leaves, gradients, strict=True))
    edges = {name.split(".")[3] for name in leaves if name.startswith("cells.0.edges.")}
    assert len(edges) == 9
    for edge in edges:
        ran = {
            name.split(".")[4]
            for name, gradient in by_name.items()
            if name.startswith(f"cells.0.edges.{edge}.") and gradient is not None
        }
        assert len(ran) <= 1
    for kind in CELL_KINDS:
        for part in ("ops", "inputs"):
            gradient = by_name[f"alpha.{kind}.{part}"]
            assert gradient is not None
            assert bool((gradient != 0).any())


def test_operations_that_are_not_alive_are_never_chosen() -> None:
    supernet = masked_supernet()
    genotype = genotype_of(supernet, dict(supernet.named_parameters()))
    for kind in CELL_KINDS:
        alive = supernet.cell_alpha(kind).alive
        for node, edges in enumerate(genotype.cell(kind)):
            for source, op in edges:
                assert alive[int(edge_name(node, source)), SPACE.ops.index(op)]


@pytest.mark.parametrize("space", [SPACE, TINY])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_pruned_network_is_the_supernet_at_temperature_zero(
    space: SearchSpace, seed: int
) -> None:
    supernet = small_supernet(space, seed=seed)
    params = {k: v.detach() for k, v in supernet.named_parameters()}
    genotype = genotype_of(supernet, params)
    network = from_supernet(space, params, genotype, OPS)
    torch.testing.assert_close(
        network(images(), SUPPORT), supernet(images(), SUPPORT, COLD), rtol=1e-5, atol=1e-5
    )


def test_queries_influence_nobody() -> None:
    supernet = small_supernet()
    x = images()
    out = supernet(x, SUPPORT, SOFT)
    other = x.clone()
    other[-1] = 50.0
    torch.testing.assert_close(supernet(other, SUPPORT, SOFT)[:-1], out[:-1])
    torch.testing.assert_close(supernet(x[:4], SUPPORT, SOFT), out[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [8, 9, 11, 15, 28])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_any_image_size_goes_through(size: int, stride: int) -> None:
    space = replace(TINY, stem_stride=stride, channels=(4, 4, 4, 4), reductions=(0, 1, 3))
    out = small_supernet(space)(noise(5, 1, size, size), Rows(3), SOFT)
    assert out.shape == (5, space.features)
    assert bool(out.isfinite().all())


def test_initialisation_comes_from_its_generator_alone() -> None:
    def parameters(seed: int) -> Params:
        torch.rand(seed + 1)  # another state of the global generator
        supernet = Supernet(TINY, OPS)
        initialise(supernet, torch.Generator().manual_seed(seed))
        return dict(supernet.named_parameters())

    one, same, other = parameters(0), parameters(0), parameters(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])
    assert all(0 < float(v.detach().abs().max()) < 0.01 for k, v in one.items() if is_alpha(k))


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(UnknownName) as caught:
        Supernet(replace(TINY, ops=("skip_connect", "conv_9x9")), OPS)
    assert (caught.value.kind, caught.value.name) == ("op", "conv_9x9")
