"""Ray clusters of several nodes on this host, for the tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from metanas.training.ray_pool import ATTEMPTS

NODES = """
import sys
from ray.cluster_utils import Cluster
# without these a node has fewer processes to start
few = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
cluster = Cluster()
nodes = [cluster.add_node(num_cpus=int(cpus), **few) for cpus in sys.argv[1].split()]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster; `address` is empty if Ray was too slow to start it."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.pid = child.pid
        self.address = self._read()

    def kill(self, node: int) -> None:
        """Kill a node with all its processes."""
        assert self._child.stdin is not None
        print(node, file=self._child.stdin, flush=True)
        self._read()

    def _read(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()


@contextmanager
def nodes(cpus: str, **variables: str) -> Iterator[Nodes]:
    """A cluster with a node for each number of CPUs, and these variables in its environment."""
    with subprocess.Popen(
        [sys.executable, "-c", NODES, cpus],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        env={**os.environ, **variables},
        cwd="/",  # a relative path of a test leads nowhere in the cluster
    ) as child:
        assert child.stdin is not None
        yield Nodes(child)
        child.stdin.close()
        child.wait()


@contextmanager
def started(cpus: str, **variables: str) -> Iterator[Nodes]:
    """A cluster for which Ray has more than one attempt: it gives a node 30 seconds."""
    for _ in range(ATTEMPTS):
        with nodes(cpus, **variables) as cluster:
            if cluster.address:
                yield cluster
                return
    pytest.fail("Ray did not start")
