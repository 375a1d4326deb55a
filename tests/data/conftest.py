"""Lakes for the tests of data/: an empty one, and one that was built from the small world twice.

shapes@1 is by the shipped recipe, shapes@2 by a stricter one.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.build.build import build
from data.build.recipe import Recipe, load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.lakes.empty import unprobed_lake
from tests.shared import copied

STRICT = ("select.clip_score.min=0.42",)


def recipe_for(world: Path, *changes: str) -> Recipe:
    return load_recipe("shapes", (str(world / "pairs.parquet"),), ("shard_rows=40", *changes))


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(2) as engine:
        yield engine


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess, engine: LocalEngine) -> Lake:
    """shapes@1 and shapes@2. Not to be changed by a test: copy it."""

    def build_twice(folder: Path) -> None:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        assert build(lake, recipe_for(world), engine).version == 1
        assert build(lake, recipe_for(world, *STRICT), engine).version == 2

    lake = Lake.open(str(copied(tmp_path_factory, "built", build_twice) / "lake"))
    lake.allow_host(HOST, origin.address)  # of this process
    return lake


@pytest.fixture
def empty_lake(tmp_path: Path) -> Lake:
    """A lake on a disk that is made at once, and may fetch from no private address."""
    return unprobed_lake(tmp_path)
