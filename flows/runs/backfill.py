"""The flow `backfill`: run a recipe's scorers over pictures that they have not scored yet, a bucket at a time.

Nothing is selected or published; the next build uses the scores.
"""

from prefect import flow

from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.choose import open_engine
from data.engine.stage import Stage
from data.errors import RecipeError
from data.lake.lake import Lake
from flows.runs.stages import BatchesFailed, Failure, by_recipe, run_stage
from flows.server.artifacts import key_of, show_table


@flow(name="backfill", flow_run_name=by_recipe, persist_result=False)
def backfill(
    recipe: str, lake: str = "lake", stages: list[str] | None = None, workers: int | None = None
) -> dict[str, int]:
    """Score the pictures of a lake that a recipe's scorers have not seen. It can be stopped and run again.

    Args:
        recipe: a recipe (.yaml), or the name of a shipped one
        lake: folder or URL of the lake
        stages: stages to run, by their names in a plan, such as score-clip; all but download if not given
        workers: worker processes; one per core if not given

    Returns:
        The rows done by each stage.
    """
    opened, loaded = Lake.open(lake), load_recipe(recipe)
    after_download = {stage.name: stage for stage in make_pipeline(opened, loaded).stages[1:]}
    chosen = _choose(after_download, stages, recipe)
    done, failures = dict.fromkeys((stage.name for stage in chosen), 0), list[Failure]()
    with open_engine(workers) as engine:
        for bucket in opened.buckets:
            for stage in chosen:
                try:
                    done[stage.name] += run_stage(opened, stage, engine, loaded.shard_rows, bucket)
                except BatchesFailed as error:
                    failures += error.failures
    rows = [{"stage": name, "rows": count} for name, count in done.items()]
    show_table(key=key_of("backfill", loaded.name), table=rows, description=f"Rows scored in {lake}")
    if failures:
        raise BatchesFailed(failures)
    return done


def _choose(stages: dict[str, Stage], names: list[str] | None, recipe: str) -> list[Stage]:
    """Return the stages with these names, in the order of the pipeline; all stages if no names are given."""
    if unknown := set(names or ()) - stages.keys():
        raise RecipeError(f"{recipe} has no stage {', '.join(sorted(unknown))}. It has: {', '.join(stages)}")
    return [stage for name, stage in stages.items() if names is None or name in names]
