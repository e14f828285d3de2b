"""The pruned network: weights that carry over, statistics from the support set alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metanas.nn.functional import Rows
from metanas.nn.ops import OPS, Norm
from metanas.spec.search_space import SearchSpace
from metanas.supernet.discrete import DiscreteNetwork, chunk_size, freeze_statistics, from_supernet
from metanas.supernet.supernet import genotype_of
from metanas.util.work import whole
from tests.core.small import SPACE, TINY, noise, small_supernet


def network(space: SearchSpace = SPACE) -> DiscreteNetwork:
    supernet = small_supernet(space)
    params = {k: v.detach() for k, v in supernet.named_parameters()}
    return from_supernet(space, params, genotype_of(supernet, params), OPS)


def statistics(model: DiscreteNetwork) -> list[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    found = [part for norm in norms for part in (norm.mean, norm.variance)]
    return [part for part in found if part is not None]


def test_weights_are_copies() -> None:
    supernet = small_supernet(TINY)
    params = {k: v.detach().clone() for k, v in supernet.named_parameters()}
    before = {k: v.clone() for k, v in params.items()}
    model = from_supernet(TINY, params, genotype_of(supernet, params), OPS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(params[name], before[name]) for name in before)


def test_norms_of_a_step_use_the_support_rows_alone() -> None:
    x = noise(6, 3, 4, 5) * 3 + 1
    norm = Norm(3)
    out = norm(x, Rows(4))
    torch.testing.assert_close(out[:4].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    ones = torch.ones(3)
    torch.testing.assert_close(out[:4].var(dim=(0, 2, 3), correction=0), ones, atol=1e-4, rtol=0)
    expected = torch.nn.functional.batch_norm(x[:4], None, None, training=True)
    torch.testing.assert_close(out[:4], expected)
    with pytest.raises(RuntimeError, match="call freeze"):
        norm.folded()


def test_frozen_statistics_are_those_of_one_batch() -> None:
    model, support = network(), noise(9, 1, 11, 11)
    expected = model(support, Rows(len(support)))
    whole(freeze_statistics(model, support, len(support)))
    assert len(statistics(model)) == 2 * sum(isinstance(m, Norm) for m in model.modules())
    torch.testing.assert_close(model(support), expected, rtol=1e-4, atol=1e-5)
    # and every row stands on its own now
    torch.testing.assert_close(model(support[3:4]), expected[3:4], rtol=1e-4, atol=1e-5)


@given(count=st.integers(2, 23), chunk=st.integers(2, 9))
@settings(max_examples=10)
def test_statistics_in_chunks_are_close_to_those_of_one_batch(count: int, chunk: int) -> None:
    support = noise(count, 1, 9, 9, seed=count)
    single, parts = network(TINY), network(TINY)
    whole(freeze_statistics(single, support, count))
    whole(freeze_statistics(parts, support, chunk))
    # the first norm sees the same numbers either way: its pooled moments are exact
    for one, other in zip(statistics(single)[:2], statistics(parts)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(bool(part.isfinite().all()) for part in statistics(parts))


def test_one_image_left_over_at_one_pixel_is_no_problem() -> None:
    model = network(TINY)
    images = noise(5, 1, 4, 4)  # features of 1x1 pixel, chunks of 2, 2, 1
    whole(freeze_statistics(model, images, 2))
    assert bool(model(noise(2, 1, 4, 4)).isfinite().all())


@pytest.mark.parametrize(
    ("shape", "shift", "images"),
    [((1, 28, 28), 0, 256), ((1, 28, 28), 1, 51), ((3, 84, 84), 1, 7), ((3, 999, 999), 1, 1)],
)
def test_large_images_go_through_in_small_parts(
    shape: tuple[int, ...], shift: int, images: int
) -> None:
    assert chunk_size(torch.zeros(1, *shape), shift) == images
    assert chunk_size(torch.zeros(1, 320), 0) == 256
