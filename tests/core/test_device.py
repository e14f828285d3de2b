"""On a GPU: the same genotype, the same model within rounding. Runs wherever there is one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.checkpoint import load_checkpoint
from metanas.export import run, session
from metanas.options import AdaptConfig
from metanas.pipeline import Job
from metanas.testing import make_checkpoint
from metanas.workbench import make_all
from tests.core.small import examples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


def test_a_gpu_makes_the_model_that_a_cpu_makes(tmp_path: Path) -> None:
    options = AdaptConfig(steps=3, tuning_steps=2)
    folder = tmp_path / "tiny"
    make_checkpoint(folder, size=12, options=options)
    shapes = [(2, 2), (1, 3, 1)]
    made = {}
    for device in ("cpu", "cuda"):
        checkpoint = load_checkpoint(folder, device=device)
        jobs = [Job(checkpoint, examples(shots), seed=1) for shots in shapes]
        make_all(jobs)
        made[device] = [job.result() for job in jobs]
    for one, other, shots in zip(made["cpu"], made["cuda"], shapes, strict=True):
        assert one.genotype == other.genotype
        queries = [np.asarray(each.image, np.uint8) for each in examples(shots)]
        mine, theirs = (run(session(model.onnx), queries) for model in (one, other))
        np.testing.assert_allclose(mine, theirs, rtol=2e-2, atol=2e-2)
