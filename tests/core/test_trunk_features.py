"""Behind a trunk: pooled features without cells, and images without views."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas.adaptation.job import Job
from metanas.adaptation.scheduler import make_all
from metanas.adaptation.views import head_inputs
from metanas.checkpoint import Checkpoint
from metanas.errors import InvalidInput
from metanas.nn.heads import HEADS
from metanas.spec.examples import Example
from metanas.spec.genotype import Genotype
from metanas.spec.options import AdaptConfig
from metanas.spec.search_space import SearchSpace
from metanas.spec.trunk_plans import TRUNKS
from metanas.testing import make_checkpoint
from metanas.util.work import whole
from tests.core.small import examples

OPTIONS = AdaptConfig(steps=3, tuning_steps=2, weight_lr=1e-3, alpha_lr=0.1)
SPACE = SearchSpace(
    input_channels=3,
    ops=("skip_connect",),
    channels=(4,),
    reductions=(),
    trunk="efficientnet-lite0",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("trunk") / "photo"
    return make_checkpoint(folder, channels=3, size=32, trunk=True, options=OPTIONS)


def pictures(shots: tuple[int, ...], seed: int = 0) -> list[Example]:
    return examples(shots, size=40, channels=3, seed=seed)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [32, 40])
def test_a_model_of_pooled_features_without_cells(tmp_path: Path, size: int, head: str) -> None:
    """Quarters of an odd side overlap: a block of an eighth has five pixels for an image of 40."""
    pools = ((1, 2), (4, 2), (3, 1))
    bare = make_checkpoint(
        tmp_path / "bare", channels=3, size=size, trunk=True, pools=pools, options=OPTIONS
    )
    given = pictures((2, 1, 3))
    job = Job(bare, given, options=OPTIONS.replace({"head": head}))
    make_all([job])
    model = job.result()
    assert model.genotype == Genotype((), ())
    assert model.report.onnx_difference < 1e-3
    assert job.task is not None
    assert job.adaptation is not None
    network, features = whole(job.adaptation.network())
    widths = sum(TRUNKS[SPACE.trunk][block].channels * grid**2 for block, grid in pools)
    assert features.shape == (6, widths)
    assert list(network.cells) == []
    moved = job.adaptation.optimizer.params["embed.project.weight"]
    assert not torch.equal(moved, bare.params["embed.project.weight"])


@pytest.mark.parametrize(
    "change",
    [
        {"pools": ((16, 1),)},
        {"pools": ((1, 3),)},
        {"trunk": "", "pools": ((1, 1),)},
        {"trunk": "", "channels": ()},
    ],
)
def test_a_space_without_what_it_pools_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        replace(SPACE, **change)


@pytest.mark.parametrize("steps", [0, 2])
def test_without_views_each_image_runs_once_and_is_its_own_view(
    checkpoint: Checkpoint, steps: int
) -> None:
    bare = replace(checkpoint, card=replace(checkpoint.card, views=0))
    assert bare.trunk is not None
    counts = list[int]()
    hook = bare.trunk.stem.register_forward_hook(lambda _m, x, _y: counts.append(len(x[0])))
    job = Job(bare, pictures((2, 2)), options=OPTIONS.replace({"steps": steps}))
    make_all([job])
    hook.remove()
    to_count_macs, conformance = 1, 1
    assert sum(counts) == 4 + to_count_macs + conformance
    assert job.result().report.steps == steps
    assert job.task is not None
    support = job.task.support
    assert support.views is not None
    assert torch.equal(support.views[:, 0], support.images)
    inputs, members = head_inputs(support, bare.card)
    assert torch.equal(inputs, support.images)
    assert members.sum(0).tolist() == [2, 2]
