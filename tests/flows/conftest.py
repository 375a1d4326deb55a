"""The command with its runs on a Prefect server, and a lake that was built without disturbance."""

from pathlib import Path

import pytest

from data.build.build import build
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.command import Command, Finished, finish, start_imagen
from tests.conftest import QUICK_RECIPE, write_recipe
from tests.shared import made_once


@pytest.fixture(scope="session")
def tracked_imagen(prefect_server: str) -> Command:
    """The command as a process of its own, whose runs a Prefect server keeps."""

    def run(*words: str, folder: Path | None = None, **environment: str) -> Finished:
        return finish(start_imagen(*words, folder=folder, PREFECT_API_URL=prefect_server, **environment))

    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess) -> Lake:
    """shapes@1 of the world by QUICK_RECIPE, which other builds are compared with. Not to be changed."""

    def build_once(folder: Path) -> None:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        recipe = write_recipe(folder, world / "pairs.parquet", threshold=0.1, text=QUICK_RECIPE)
        with LocalEngine(2) as engine:
            assert build(lake, load_recipe(str(recipe)), engine).version == 1

    return Lake.open(str(made_once(tmp_path_factory, "undisturbed", build_once) / "lake"))
