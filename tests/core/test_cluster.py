"""Meta-training over a Ray cluster of two nodes on this host, and what can happen to it."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metanas.config import RunConfig
from metanas.errors import ClusterError, Diverged, InvalidInput
from metanas.metabatch import MetaState, TaskResults
from metanas.train import Extensions, MetaTrainer
from metanas.cluster import Workers, cluster, split
from ray.cluster_utils import Cluster
from tests.core.small import run_config, synthetic

pytestmark = pytest.mark.slow
TRAIN, VAL = synthetic(8, 6), synthetic(5, 8, seed=1)
CONFIG = run_config(tasks=5, iterations=4, validate_every=99, settle=99)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes, each with two CPUs."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=2)
    yield nodes.address
    nodes.shutdown()


def trained(address: str, count: int, **options: Any) -> MetaTrainer:
    with cluster(Workers(count=count, address=address, **options), 5) as learner:
        trainer = MetaTrainer(CONFIG, TRAIN, VAL, learn=learner(CONFIG, TRAIN))
        for _ in range(CONFIG.train.iterations):
            trainer.iterate()
    return trainer


def test_the_result_does_not_depend_on_the_number_of_workers(address: str) -> None:
    alone = MetaTrainer(CONFIG, TRAIN, VAL)
    for _ in range(CONFIG.train.iterations):
        alone.iterate()
    import time
    for count in (1, 2, 3):
        t=time.time()
        found = trained(address, count)
        print(count, time.time()-t, (found.params-alone.params).abs().max(), alone.params.abs().max())
        torch.testing.assert_close(found.params, alone.params, rtol=1e-4, atol=1e-5)
