"""A build by the command on a Ray cluster of two nodes: interrupted and run again, it publishes the same rows."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.command import Command, Finished, finish, start_imagen
from tests.conftest import QUICK_RECIPE, content_of, write_recipe

pytest.importorskip("ray")
from tests.servers.ray_cluster import two_nodes, workers_of_ray


@pytest.fixture(scope="module")
def cluster_lake(tmp_path_factory: pytest.TempPathFactory, origin: OriginProcess) -> Iterator[Lake]:
    """An empty lake, with a cluster to build it."""
    with two_nodes():
        yield Lake.make(str(tmp_path_factory.mktemp("ray") / "lake"), hosts={HOST: origin.address})


@pytest.fixture(scope="module")
def ray_words(cluster_lake: Lake, world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command line of the build."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = write_recipe(folder, world / "pairs.parquet", threshold=0.1, shard_rows=10, text=QUICK_RECIPE)
    return ("build", str(recipe), "--lake", cluster_lake.url, "--json")


@pytest.fixture(scope="module")
def interrupted_build(
    cluster_lake: Lake, ray_words: tuple[str, ...], prefect_server: str
) -> tuple[Finished, float, list[str]]:
    """A build that was sent SIGINT: what it left, the seconds until its workers were gone, and the lake's tables."""
    process = start_imagen(*ray_words, PREFECT_API_URL=prefect_server, IMAGEN_ENGINE="ray")
    while not ("images" in cluster_lake.table_names() and cluster_lake.table("images").count_rows()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    workers = workers_of_ray()
    assert workers
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, alive = psutil.wait_procs(workers, 20)
    assert not alive
    seconds = time.monotonic() - began
    return finish(process), seconds, cluster_lake.table_names()


def test_an_interrupted_build_stops_its_workers_on_all_nodes(
    interrupted_build: tuple[Finished, float, list[str]],
) -> None:
    finished, seconds, tables = interrupted_build
    assert seconds < 10
    assert finished.returncode != 0
    assert "datasets/shapes" not in tables


def test_two_nodes_publish_what_one_machine_does(
    interrupted_build: tuple[Finished, float, list[str]],
    cluster_lake: Lake,
    ray_words: tuple[str, ...],
    undisturbed: Lake,
    tracked_imagen: Command,
) -> None:
    finished = tracked_imagen(*ray_words, IMAGEN_ENGINE="ray")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["kept"] == undisturbed.table("datasets/shapes").count_rows()
    assert content_of(cluster_lake, "shapes") == content_of(undisturbed, "shapes")
