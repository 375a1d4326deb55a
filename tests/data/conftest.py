"""A lake that was built from the small world, twice: shapes@1 by the shipped recipe, shapes@2 by a stricter one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.build.build import build
from data.build.recipe import Recipe, load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess

STRICT = ("select.clip_score.min=0.42",)


def recipe_for(world: Path, *changes: str) -> Recipe:
    return load_recipe("shapes", (str(world / "pairs.parquet"),), ("shard_rows=40", *changes))


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2) as engine:
        yield engine


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess, engine: LocalEngine) -> Lake:
    """Not to be changed by a test: copy it."""
    lake = Lake.make(str(tmp_path_factory.mktemp("built") / "lake"), hosts={HOST: origin.address})
    assert build(lake, recipe_for(world), engine).version == 1
    assert build(lake, recipe_for(world, *STRICT), engine).version == 2
    return lake
