"""A plan says what the build then does, and writes nothing."""

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
from tests.data.conftest import STRICT, recipe_for
from tests.shared import copy_of


def files_under(lake: Lake) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(lake.url).rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["select.clip_score.min=0.3", "select.clip_score.min=0.4", "select.side.min=250"])
def test_what_if_agrees_with_what_the_build_then_does(
    built: Lake, world: Path, engine: LocalEngine, tmp_path: Path, change: str
) -> None:
    lake, recipe = copy_of(built, tmp_path / "lake"), recipe_for(world, change)
    before = files_under(lake)
    plan = plan_build(lake, recipe)
    assert files_under(lake) == before, "a plan writes nothing"
    assert plan.pending == 0
    done = build(lake, recipe, engine)
    planned = plan.change
    assert (planned.kept, planned.into, planned.out) == (done.kept, done.added, done.removed)
    assert planned.before - planned.out + planned.into == planned.kept
    assert len(planned.samples_in) == min(5, planned.into)


def test_a_plan_of_a_new_lake_counts_its_pairs_and_writes_nothing(lake: Lake, world: Path) -> None:
    before = files_under(lake)
    plan = plan_build(lake, recipe_for(world))
    assert files_under(lake) == before
    assert (plan.new_files, plan.new_pairs) == (1, 160)
    assert {step.name: step.expected for step in plan.steps} == dict.fromkeys(
        ("download", "score-caption", "look", "score-clip", "embed-t5"), 160
    )
    assert plan.bytes is None


def test_after_a_build_a_plan_of_the_same_recipe_is_empty(built: Lake, world: Path) -> None:
    plan = plan_build(built, recipe_for(world, *STRICT))
    assert plan.pending == plan.change.into == plan.change.out == 0


def test_a_new_scorer_is_planned_for_every_picture(built: Lake, world: Path) -> None:
    plan = plan_build(built, recipe_for(world, *STRICT, "scores.picture={}"))
    look = next(step for step in plan.steps if step.name == "look")
    assert look.pending == built.table("images").count_rows()
    assert look.seconds is not None


def test_a_probe_says_what_part_will_be_kept_and_leaves_the_lake_alone(
    lake: Lake, world: Path, engine: LocalEngine, origin: OriginProcess, built: Lake
) -> None:
    recipe, before = recipe_for(world), files_under(lake)
    probe = run_probe(lake, recipe, 0.5, engine)
    assert files_under(lake) == before
    assert 50 <= probe.pairs <= 110
    arrive, stay = probe.shares
    low, high = arrive.interval
    assert low <= built.table("images").count_rows() / 160 <= high
    low, high = stay.interval
    assert low <= built.table("datasets/shapes", 1).count_rows() / 160 <= high
    assert set(probe.seconds) == {"download", "score-caption", "look", "score-clip"}


def test_intervals_are_wilson_s() -> None:
    assert Share("", 10, 20).interval == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert Share("", 0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Share("", 0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize("change", ["select.clop_score.min=1", "select.clip_score", "nowhere.min=1"])
def test_a_change_of_no_place_is_refused(change: str) -> None:
    with pytest.raises(RecipeError, match="the recipe has no such field"):
        load_recipe("shapes", (), (change,))
