"""A plan says what the build then does, and writes nothing."""

import shutil
from pathlib import Path

import pytest

from data.build.build import build
from data.build.dry_run import plan_build
from data.build.probe import Share, run_probe
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.errors import RecipeError
from data.lake.lake import Lake
from data.world.server import OriginProcess
from tests.data.conftest import recipe_for


def copy_of(lake: Lake, folder: Path) -> Lake:
    shutil.copytree(lake.url, folder / "lake")
    return Lake.open(str(folder / "lake"))


def files_under(lake: Lake) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(lake.url).rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["select.clip_score.min=0.3", "select.clip_score.min=0.4", "select.side.min=250"])
def test_what_if_agrees_with_what_the_build_then_does(
    built: Lake, world: Path, engine: LocalEngine, tmp_path: Path, change: str
) -> None:
    lake, recipe = copy_of(built, tmp_path), recipe_for(world, change)
    before = files_under(lake)
    found = plan_build(lake, recipe)
    assert files_under(lake) == before, "a plan writes nothing"
    assert found.pending == 0
    done = build(lake, recipe, engine)
    said = found.change
    assert (said.kept, said.into, said.out) == (done.kept, done.added, done.removed)
    assert said.before - said.out + said.into == said.kept
    assert len(said.samples_in) == min(5, said.into)


def test_a_plan_of_a_new_lake_counts_what_the_build_then_does(
    lake: Lake, world: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    recipe = recipe_for(world)
    before = files_under(lake)
    found = plan_build(lake, recipe)
    assert files_under(lake) == before
    assert (found.new_files, found.new_pairs) == (1, 160)
    assert {step.name: step.expected for step in found.steps} == dict.fromkeys(
        ("download", "score-caption", "look", "score-clip", "embed-t5"), 160
    )
    assert found.bytes is None
    build(lake, recipe, engine)
    again = plan_build(lake, recipe)
    assert again.pending == again.change.into == again.change.out == 0
    scratched = plan_build(lake, recipe_for(world, "scores.picture={}"))
    look = next(step for step in scratched.steps if step.name == "look")
    assert look.pending == lake.table("images").count_rows(), "a new scorer has yet to see every picture"
    assert look.seconds is not None


def test_a_probe_says_what_part_will_be_kept_and_leaves_the_lake_alone(
    lake: Lake, world: Path, engine: LocalEngine, origin: OriginProcess, built: Lake
) -> None:
    recipe, before = recipe_for(world), files_under(lake)
    found = run_probe(lake, recipe, 0.5, engine)
    assert files_under(lake) == before
    assert 50 <= found.pairs <= 110
    arrive, kept = found.shares
    low, high = arrive.interval
    assert low <= built.table("images").count_rows() / 160 <= high
    low, high = kept.interval
    assert low <= built.table("datasets/shapes", 1).count_rows() / 160 <= high
    assert set(found.seconds) == {"download", "score-caption", "look", "score-clip"}


def test_intervals_are_wilson_s() -> None:
    assert Share("", 10, 20).interval == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert Share("", 0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Share("", 0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize("change", ["select.clop_score.min=1", "select.clip_score", "nowhere.min=1"])
def test_a_change_of_no_place_is_refused(change: str) -> None:
    with pytest.raises(RecipeError, match="the recipe has no such field"):
        load_recipe("shapes", (), (change,))
