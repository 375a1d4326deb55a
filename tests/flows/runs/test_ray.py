"""A build by the command on a Ray cluster of two nodes: ended amid its work and run again, it gives the same rows."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.conftest import content_of, write_recipe
from tests.flows.runs.test_rebuild import IMAGEN

pytest.importorskip("ray")
from tests.servers.ray_cluster import two_nodes, workers_of_ray

pytestmark = pytest.mark.xdist_group("ray")


def test_two_nodes_build_what_one_machine_builds_also_after_ctrl_c(
    world: Path, origin: OriginProcess, prefect_server: str, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=40)
    here, there = (Lake.make(str(tmp_path / name), hosts={HOST: origin.address}) for name in ("here", "there"))

    def command(lake: Lake) -> list[str]:
        return [IMAGEN, "build", str(recipe), "--lake", lake.url, "--json"]

    def environment(**more: str) -> dict[str, str]:
        return {**os.environ, "PREFECT_API_URL": prefect_server, **more}

    subprocess.run(command(here), env=environment(), check=True, capture_output=True)
    with two_nodes():
        on_ray = environment(IMAGEN_ENGINE="ray")
        first = subprocess.Popen(command(there), env=on_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not ("images" in there.table_names() and there.table("images").count_rows()):
            assert first.poll() is None, first.communicate()[1].decode()
            time.sleep(0.2)
        actors = workers_of_ray()
        assert actors
        first.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, alive = psutil.wait_procs(actors, 20)
        assert not alive
        assert time.monotonic() - began < 10
        assert first.wait(60) != 0
        assert "datasets/shapes" not in there.table_names()
        again = subprocess.run(command(there), env=on_ray, check=True, capture_output=True, text=True)
        assert json.loads(again.stdout)["kept"] == here.table("datasets/shapes").count_rows()
    assert content_of(there, "shapes") == content_of(here, "shapes")
