"""Where no server is configured: a temporary one, which never outlives the command."""

import json
import os
import subprocess
import time
from pathlib import Path

import psutil

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.conftest import write_recipe
from tests.flows.runs.test_rebuild import IMAGEN


def test_a_build_without_a_server_has_one_that_ends_with_it_even_if_killed(
    world: Path, origin: OriginProcess, tmp_path: Path
) -> None:
    (tmp_path / "dataclasses.py").write_text("raise ImportError('img2dataset drags in a backport like this')\n")
    recipe = write_recipe(tmp_path, world / "pairs.parquet")
    Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect")}
    command = [IMAGEN, "build", str(recipe), "--lake", str(tmp_path / "lake"), "--json"]
    killed = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    below = wait_for_a_server_and_a_worker(killed)
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] > 60
    assert done.stderr == ""


def wait_for_a_server_and_a_worker(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What runs below a build, once its server has started and its work begun."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        below = psutil.Process(process.pid).children(recursive=True)
        words = [" ".join(child.cmdline()) for child in below]
        if any("create_app" in one for one in words) and any("spawn_main" in one for one in words):
            return below
        time.sleep(0.2)
    raise AssertionError("no server and worker within two minutes")
