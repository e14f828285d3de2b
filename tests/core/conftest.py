"""One thread for all of the core's tests: their tensors are too small to share out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metanas.runs.run import run
from metanas.training.config import DataConfig, RunConfig
from tests.core.running import ignore
from tests.core.small import RUN, synthetic

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data") / "classes.npz"
    classes = synthetic(12, 8)
    np.savez(
        path,
        images=np.stack([images[:, 0] for images in classes.values()]),
        class_name=np.array(list(classes)),
        alphabet=np.array(["a"] * 12),
        split=np.array(["train"] * 7 + ["val"] * 5),
    )
    return path


@pytest.fixture
def config(data: Path) -> RunConfig:
    return replace(RUN, data=DataConfig(path=str(data), licence="none"))


@pytest.fixture
def finished(config: RunConfig, tmp_path: Path) -> Path:
    short = replace(config, train=replace(config.train, iterations=3))
    run(short, tmp_path / "run", resume=False, on_progress=ignore)
    return tmp_path / "run"
