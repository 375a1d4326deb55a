"""The engine for several machines, on a cluster of two nodes: the same rows, also after the loss of a node."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from data.build.build import build  # noqa: E402
from data.engine import ray as ray_engine  # noqa: E402
from data.engine.choose import open_engine  # noqa: E402
from data.engine.local import LocalEngine  # noqa: E402
from data.engine.ray import RayEngine  # noqa: E402
from data.engine.stage import ShardResult  # noqa: E402
from data.errors import EngineUnavailable, SettingsError, SourceError, WorkerDied  # noqa: E402
from data.lake.lake import Lake  # noqa: E402
from tests.conftest import content_of  # noqa: E402
from tests.data.conftest import recipe_for  # noqa: E402
from tests.data.engine.test_pool import check_that_hanging_items_are_retried, check_that_kill_ends_workers, die, double  # noqa: E402
from tests.servers.ray_cluster import NODE, two_nodes, workers_of_ray  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def actors(cluster: Cluster) -> Iterator[RayEngine]:
    with RayEngine() as engine:
        yield engine


def fail(item: int) -> int:
    raise SourceError(f"no {item}")


def meet(folder: Path) -> int:
    """Return the process id, once a second process has arrived."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    return os.getpid()


def test_there_is_a_worker_a_core_and_every_item_comes_back(actors: RayEngine, tmp_path: Path) -> None:
    assert actors.workers == 2
    assert len(set(actors.map(meet, [tmp_path] * 2))) == 2
    assert sorted(actors.map(double, range(20))) == list(range(0, 40, 2))
    assert len(workers_of_ray()) >= 2


def test_what_a_worker_raises_is_raised_here(actors: RayEngine) -> None:
    with pytest.raises(SourceError, match="no 3") as raised:
        list(actors.map(fail, [3]))
    assert type(raised.value) is SourceError
    assert list(actors.map(double, [4])) == [8]


def test_an_item_that_kills_its_workers_is_named(actors: RayEngine) -> None:
    with pytest.raises(WorkerDied, match="a worker died 4 times on 3"):
        list(actors.map(die, [3]))
    assert list(actors.map(double, [4])) == [8]


def test_a_node_that_is_lost_during_a_build_costs_no_row(
    cluster: Cluster, actors: RayEngine, built: Lake, world: Path, lake: Lake
) -> None:
    lost = next(iter(cluster.worker_nodes))
    nodes = len(cluster.list_all_nodes())
    done: list[int] = []

    def lose(written: ShardResult) -> None:
        done.append(written.rows)
        if len(done) == 3:
            cluster.remove_node(lost, allow_graceful=False)

    try:
        assert build(lake, recipe_for(world), actors, on_shard=lose).version == 1
        assert len(done) > 12
        assert len(cluster.list_all_nodes()) == nodes - 1
    finally:
        cluster.add_node(**NODE)
    assert content_of(lake, "shapes") == content_of(built, "shapes", 1)


@pytest.mark.slow
@pytest.mark.nightly  # the engines share what is tested: tests/data/engine/test_pool.py has it for processes
def test_what_hangs_is_tried_once_more_and_then_named(cluster: Cluster, tmp_path: Path) -> None:
    with RayEngine(2, stall_timeout=20) as engine:
        check_that_hanging_items_are_retried(engine, tmp_path)


def test_an_engine_that_is_killed_ends_its_workers_in_the_middle_of_their_items(
    cluster: Cluster, tmp_path: Path
) -> None:
    check_that_kill_ends_workers(RayEngine(1), tmp_path)
    began = time.monotonic()
    (note,) = tmp_path.iterdir()
    while psutil.pid_exists(int(note.name)) and time.monotonic() - began < 20:
        time.sleep(0.1)
    assert not psutil.pid_exists(int(note.name))


def test_a_cluster_that_does_not_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EngineUnavailable, match="no Ray cluster answers at RAY_ADDRESS"):
        RayEngine()


def test_a_cluster_without_room_says_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "CAPACITY_SECONDS", 1.0)
    with RayEngine(1, gpus=0.5) as engine, pytest.raises(EngineUnavailable) as raised:
        list(engine.map(double, [1, 2]))
    assert str(raised.value) == (
        "the Ray cluster starts no worker: no node has 1 cores and 0.5 GPUs free. It has: 2 CPU"
    )


def test_the_environment_chooses_the_engine(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(3) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine.workers == 3
    monkeypatch.setenv("IMAGEN_ENGINE", "ray")
    monkeypatch.setenv("IMAGEN_WORKER_CPUS", "0.5")
    with open_engine() as engine:
        assert isinstance(engine, RayEngine)
        assert engine.workers == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "IMAGEN_ENGINE",
            "rya",
            "invalid environment variable IMAGEN_ENGINE=rya: input should be 'local' or 'ray'",
        ),
        (
            "IMAGEN_WORKERS",
            "0",
            "invalid environment variable IMAGEN_WORKERS=0: input should be greater than or equal to 1",
        ),
    ],
)
def test_a_wrong_variable_is_one_sentence(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        open_engine()
    assert str(error.value) == message
