"""A Ray cluster of two nodes of one core each, on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """The cluster, whose address the environment says inside."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
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
