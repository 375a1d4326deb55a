"""Where no server is configured a command has a temporary one, which never outlives it."""

import json
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from data.lake.lake import Lake
from tests.command import Finished, finish, start_imagen
from tests.conftest import QUICK_RECIPE, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def build_words(lake: Lake, world: Path, tmp_path: Path) -> tuple[str, ...]:
    """A build in a folder with a module that would hide one of the standard library's."""
    (tmp_path / "dataclasses.py").write_text("raise ImportError('img2dataset depends on a backport like this')\n")
    recipe = write_recipe(tmp_path, world / "pairs.parquet", threshold=0.1, text=QUICK_RECIPE)
    return ("build", str(recipe), "--lake", lake.url, "--json")


def test_a_temporary_server_ends_with_its_command_even_if_that_is_killed(
    build_words: tuple[str, ...], tmp_path: Path
) -> None:
    process = start_imagen(*build_words, folder=tmp_path, PREFECT_HOME=str(tmp_path / "prefect"))
    children = wait_for_server_and_worker(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    finished = finish(start_imagen(*build_words, folder=tmp_path, PREFECT_HOME=str(tmp_path / "prefect")))
    assert finished == Finished(0, finished.stdout, "")
    assert json.loads(finished.stdout)["kept"] > 60


def wait_for_server_and_worker(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The descendants of a build, once its server has started and its work begun."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        children = psutil.Process(process.pid).children(recursive=True)
        commands = [" ".join(child.cmdline()) for child in children]
        if any("create_app" in line for line in commands) and any("spawn_main" in line for line in commands):
            return children
        time.sleep(0.2)
    raise AssertionError("no server and worker within two minutes")
