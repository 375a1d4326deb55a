"""Builds that are killed at random moments and run again publish what an undisturbed one does."""

import random
import time
from pathlib import Path

import pytest

from data.build.build import build
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.command import finish, start_imagen
from tests.conftest import QUICK_RECIPE, content_of, write_recipe

KILLS = 5
SHARD_ROWS = 10  # many commits, between which kills happen


def build_with_kills(recipe: Path, lake: Lake, server: str, seed: int, seconds: tuple[float, float]) -> None:
    """Kill builds after random seconds, then let one finish."""
    words = ("build", str(recipe), "--lake", lake.url, "--json")
    rng = random.Random(seed)
    for _ in range(KILLS):
        process = start_imagen(*words, PREFECT_API_URL=server)
        time.sleep(rng.uniform(*seconds))
        process.kill()
        process.communicate()
    finished = finish(start_imagen(*words, PREFECT_API_URL=server))
    assert finished.returncode == 0, finished.stderr


def test_a_build_killed_at_random_moments_publishes_what_an_undisturbed_one_does(
    lake: Lake, undisturbed: Lake, prefect_server: str, world: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, world / "pairs.parquet", 0.1, SHARD_ROWS, QUICK_RECIPE)
    build_with_kills(recipe, lake, prefect_server, seed=0, seconds=(2, 9))
    assert content_of(lake, "shapes") == content_of(undisturbed, "shapes")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess) -> Lake:
    """shapes@1 with CLIP's scores and embeddings, built without a kill."""
    folder = tmp_path_factory.mktemp("scored")
    lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
    with LocalEngine(2) as engine:
        build(lake, load_recipe(str(write_recipe(folder, world / "pairs.parquet"))), engine)
    return lake


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_a_build_killed_while_it_scores_and_embeds_publishes_the_same(
    lake: Lake, scored: Lake, prefect_server: str, world: Path, tmp_path: Path, seed: int
) -> None:
    recipe = write_recipe(tmp_path, world / "pairs.parquet", shard_rows=SHARD_ROWS)
    build_with_kills(recipe, lake, prefect_server, seed, seconds=(4, 22))
    assert content_of(lake, "shapes") == content_of(scored, "shapes")
