"""The flow `rebuild`: every stage of the data way in order, batches of shards as tasks, bounded in flight.

The lake is the memory, not Prefect's cache: what was committed is never done again, whatever becomes of a run.
"""

from collections import deque
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from data.build import Built, Way, published, way
from data.engine import Engine, LocalEngine
from data.lake import Lake
from data.publish import Publication
from data.recipe import load_recipe
from data.sources import checked_lake
from data.stage import Shard, Stage, Written, make_plan
from data.versions import funnel
from flows.events import dataset_published
from flows.progress import watcher

MOST_TASKS = 200  # batches a stage, however large the lake: a task run costs milliseconds and memory for ever
IN_FLIGHT = 2  # batches at once: the engine never idles at the edge of a batch
RETRY_DELAYS = [1.0, 5.0, 30.0]


def worth_retrying(_: Any, __: Any, state: Any) -> bool:
    """A store or a network that failed may have recovered; anything else fails again in the same way."""
    try:
        state.result()
    except OSError:
        return True
    except Exception:  # noqa: BLE001 - not swallowed: the task fails with it
        return False
    return False


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=RETRY_DELAYS,
    retry_condition_fn=worth_retrying,
)
def run_batch(stage: Any, shards: list[Shard], engine: Engine, number: int) -> list[Written]:
    """Do a batch of shards. Their files are seen by nobody until the flow commits them."""
    written = []
    for one in engine.map(stage.work, shards):
        watcher.get().done(stage.name, one.rows)
        written.append(one)
    return written


@flow(
    name="rebuild",
    flow_run_name="rebuild-{recipe}",
    task_runner=ThreadPoolTaskRunner(max_workers=IN_FLIGHT),
    persist_result=False,
    validate_parameters=True,
)
def rebuild(
    recipe: str,
    lake: str = "lake",
    sources: list[str] | None = None,
    changes: list[str] | None = None,
    repin: bool = False,
    workers: int | None = None,
    buckets: int = 4,
) -> Built:
    """Bring a dataset up to date with its sources and its recipe, and publish the version if anything changed.

    Args:
        recipe: a recipe's file, or the name of a shipped one
        lake: folder or URL of the lake; made if nothing is there
        sources: read these instead of the recipe's own sources
        changes: values of the recipe to change, such as select.clip_score.min=0.3
        repin: make the cuts of `top` anew, which are pinned otherwise
        workers: processes on this machine; as many as cores unless told otherwise
        buckets: of a lake that is made now
    """
    loaded = load_recipe(recipe, tuple(sources or ()), tuple(changes or ()))
    ways = way(checked_lake(lake, loaded.sources, buckets), loaded)
    built = Built(loaded.name, 0, ways.ingest().new)
    watcher.get().planned("ingest", built.new_pairs)
    watcher.get().done("ingest", built.new_pairs)
    with LocalEngine(workers) as engine:
        for stage in ways.stages:
            built.rows[stage.name] = run_stage(ways.lake, stage, engine, loaded.shard_rows)
        ways.select(repin)
        report(ways)  # also where a gate is closed
        for stage in ways.later:
            built.rows[stage.name] = run_stage(ways.lake, stage, engine, loaded.shard_rows)
        publish(ways, engine, built)
    return built


def run_stage(lake: Lake, stage: Stage, engine: Engine, shard_rows: int) -> int:
    """Plan, map, commit, until nothing is pending; a batch is committed while the next ones run."""
    rows = 0
    while True:
        plan = make_plan(lake, stage, shard_rows)
        watcher.get().planned(stage.name, plan.rows)
        lost = 0
        for written in map_batches(stage, plan.shards, engine):
            lost += plan.commit(written)
            rows += sum(one.rows for one in written)
        if not lost:
            return rows


def publish(ways: Way, engine: Engine, built: Built) -> None:
    while True:
        publication: Publication = ways.plan_publication()
        ways.pass_gates(publication)
        watcher.get().planned("publish", publication.rows)
        batches = map_batches(ways.publish, publication.shards, engine)
        version = ways.commit(publication, [one for written in batches for one in written])
        if version is not None:
            published(ways, built, publication, version)
            if built.anything_changed:
                dataset_published(ways.lake.url, built.dataset, version, samples=built.kept, added=built.added)
            if built.warning:
                get_run_logger().warning("%s@%d is published, but %s", built.dataset, version, built.warning)
            return


def map_batches(stage: Any, shards: list[Shard], engine: Engine) -> Any:
    """Run shards in few, bounded batches as tasks; yields what each batch wrote, in order."""
    size = max(engine.workers, -(-len(shards) // MOST_TASKS))
    named = run_batch.with_options(name=stage.name, task_run_name=f"{stage.name}-{{number:05d}}")
    running: deque[PrefectFuture[list[Written]]] = deque()
    for number, at in enumerate(range(0, len(shards), size)):
        batch: list[Any] = [quote(stage), quote(shards[at : at + size]), quote(engine)]  # not for Prefect to look into
        running.append(named.submit(*batch, number))
        if len(running) == IN_FLIGHT:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def report(ways: Way) -> None:
    """The funnel, for whoever looks at the run."""
    steps = funnel(ways.lake, ways.selection)
    total = steps[0].left or 1
    create_table_artifact(
        key=f"funnel-{ways.recipe.name}".replace("_", "-"),
        table=[{"step": s.name, "dropped": s.dropped, "left": s.left, "share": f"{s.left / total:.1%}"} for s in steps],
        description=f"What became of the {steps[0].left:,} pairs of {ways.recipe.name}",
    )
