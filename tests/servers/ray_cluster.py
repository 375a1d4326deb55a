"""A Ray cluster of two nodes of one core each, on this machine."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """The cluster; inside, the environment has its address. A machine has one at a time: tests look for its workers."""
    from ray.cluster_utils import Cluster

    one_at_a_time = FileLock(Path(tempfile.gettempdir(), "imagen-tests-ray.lock"))
    with one_at_a_time, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        try:
            cluster.add_node(**NODE)
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


def workers_of_ray() -> list[psutil.Process]:
    return [
        process for process in psutil.process_iter(["name"]) if (process.info["name"] or "").startswith("ray::Worker")
    ]
