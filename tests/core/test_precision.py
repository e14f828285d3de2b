"""Steps in bf16: what is lowered, what is not, and that the same comes out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metanas.adaptation.adaptation import Step, advance
from metanas.adaptation.engine import Engine
from metanas.adaptation.job import AdaptedModel, Job
from metanas.adaptation.scheduler import StackLimits, make_all
from metanas.checkpoint import Checkpoint, load_checkpoint
from metanas.export.verify import run, session
from metanas.nn.autocast import lowered, tensor_cores
from metanas.nn.functional import Geometry, Rows, convolve, mixture
from metanas.nn.ops import OPS
from metanas.spec.options import AdaptConfig
from metanas.spec.precision import Precision
from metanas.testing import make_checkpoint
from tests.core.small import examples, noise

CPU = torch.device("cpu")
BF16 = Engine(precision=Precision.BF16)
SHIPPED = Path(__file__).parents[2] / "meta_checkpoints" / "omniglot"


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_mixture_of_what_was_lowered_is_as_exact_as_its_result(tasks: int) -> None:
    """Far from zero, where statistics in bf16 would be nothing but rounding."""
    xs = [(noise(4, 3, 5, 5, seed=seed) + 40).bfloat16() for seed in range(2)]
    shares, rows = noise(tasks, 2, seed=2).abs(), Rows(2 if tasks == 1 else 1, tasks)
    leaves = [x.clone().requires_grad_() for x in xs]
    with lowered(Precision.BF16, CPU):
        found = mixture(leaves, (True, True), shares, rows)
    exact = [x.double().requires_grad_() for x in xs]
    expected = mixture(exact, (True, True), shares.double(), rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)
    weigh = noise(*found.shape, seed=3)
    mine = torch.autograd.grad((found.float() * weigh).sum(), leaves)
    theirs = torch.autograd.grad((expected * weigh).sum(), exact)
    for one, other in zip(mine, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        difference = (one.double() - other).norm() / other.norm()
        assert float(difference) < 1e-2


def test_dilated_convolutions_are_lowered_with_their_gradients() -> None:
    geometry = Geometry(padding=(2, 2), dilation=(2, 2), groups=6)
    x, weight = noise(2, 6, 9, 9).requires_grad_(), noise(6, 1, 3, 3, seed=1).requires_grad_()
    expected = torch.autograd.grad(
        convolve(x, weight, Rows(2), geometry).square().sum(), (x, weight)
    )
    with lowered(Precision.BF16, CPU):
        out = convolve(x, weight, Rows(2), geometry)
    assert out.dtype == torch.bfloat16
    found = torch.autograd.grad(out.float().square().sum(), (x, weight))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 2e-2


class Watching(TorchDispatchMode):
    """Notes the types of what convolutions and products come to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.types.setdefault(str(func), set()).add(out.dtype)
        return out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    ops = {name: OPS[name] for name in ("max_pool_3x3", "skip_connect", "dil_conv_3x3")}
    return make_checkpoint(folder, size=12, ops=ops, options=AdaptConfig(steps=3, tuning_steps=2))


def made(checkpoint: Checkpoint, engine: Engine, memory: int = 2**30) -> list[AdaptedModel]:
    """A stack of tasks of different sizes."""
    jobs = [Job(checkpoint, examples(shots), seed=1) for shots in ((2, 2), (1, 3, 1))]
    make_all(jobs, StackLimits(memory=memory), engine)
    return [job.result() for job in jobs]


@pytest.mark.parametrize("memory", [2**30, 0], ids=["kept", "recomputed"])
def test_what_leaves_is_nearly_what_float32_makes(checkpoint: Checkpoint, memory: int) -> None:
    pairs = zip(made(checkpoint, Engine()), made(checkpoint, BF16, memory), strict=True)
    for (one, other), shots in zip(pairs, ((2, 2), (1, 3, 1)), strict=True):
        assert one.genotype == other.genotype
        assert other.report.onnx_difference < 1e-3
        queries = [np.asarray(each.image, np.uint8) for each in examples(shots)]
        mine, theirs = (run(session(model.onnx), queries) for model in (one, other))
        assert np.linalg.norm(mine - theirs) < 0.1 * np.linalg.norm(mine)


def test_bf16_is_for_convolutions_and_products_of_stem_and_cells(checkpoint: Checkpoint) -> None:
    job = Job(checkpoint, examples((2, 2)))
    job.decode()
    assert job.adaptation is not None
    with Watching() as watching:
        (step,) = advance([job.adaptation], engine=BF16)
    assert isinstance(step, Step)
    lower, full = {torch.bfloat16}, {torch.float32}
    types = watching.types
    assert types["aten.convolution.default"] == lower
    assert types["aten.mm.default"] == full | lower  # of shares; of cells
    assert types["aten.bmm.default"] == full  # statistics, and the head
    for name in ("_softmax", "_log_softmax", "rsqrt_", "linalg_vector_norm"):
        assert types[f"aten.{name}.default"] == full


def test_the_shipped_checkpoint_finds_the_same_genotypes() -> None:
    """Images drawn here: whoever has the data measures accuracies."""
    shipped = load_checkpoint(SHIPPED)
    found = []
    for engine in (Engine(), BF16):
        jobs = [Job(shipped, examples((1,) * 5, size=28, seed=seed), seed=seed) for seed in (0, 1)]
        make_all(jobs, engine=engine)
        found.append([job.result() for job in jobs])
    for one, other in zip(*found, strict=True):
        assert one.genotype == other.genotype
        assert other.report.onnx_difference < 1e-3


@pytest.mark.parametrize("precision", Precision)
def test_flags_of_the_process_are_what_they_were(precision: Precision) -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    with tensor_cores(precision, torch.device("cuda")):
        assert [place.allow_tf32 for place in places] == [precision is Precision.TF32] * 2
    assert [place.allow_tf32 for place in places] == before
    with pytest.raises(ZeroDivisionError), tensor_cores(precision, torch.device("cuda")):
        raise ZeroDivisionError
    assert [place.allow_tf32 for place in places] == before
