"""The flow `rebuild`: every stage of the data way in order, each a flow run of its own, and the version at the end."""

from collections.abc import Sequence

from prefect import flow, get_run_logger

from data.build.build import Built, published
from data.build.pipeline import Pipeline, pipeline_of
from data.build.recipe import load_recipe
from data.engine.choose import open_engine
from data.engine.pool import Engine
from data.engine.progress import watcher
from data.engine.stage import ShardResult, Stage
from data.lake.lake import Lake
from data.publish.publish import Publication
from data.report.write import read_histograms
from data.select.funnel import funnel
from data.sources.sources import open_checked_lake
from flows.runs.stages import BatchesFailed, Failure, as_run, by_recipe, map_batches, run_stage
from flows.server.artifacts import key_of, picture, show_markdown, show_table
from flows.server.assets import dataset_made
from flows.server.events import dataset_published
from flows.server.retry import patiently
from flows.server.superseded import supersede


@flow(
    name="rebuild",
    flow_run_name=by_recipe,
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
        workers: of the engine; as many as there are cores unless told otherwise
        buckets: of a lake that is made now
    """
    if count := patiently(supersede):
        get_run_logger().info("%d more runs were due by now: this one does their work", count)
    loaded = load_recipe(recipe, tuple(sources or ()), tuple(changes or ()))
    ways = pipeline_of(open_checked_lake(lake, loaded.sources, buckets), loaded)
    built = Built(loaded.name, 0, ways.ingest().new)
    watcher.get().planned("ingest", built.new_pairs)
    watcher.get().done("ingest", built.new_pairs)
    with open_engine(workers) as engine:
        run_stages(ways, ways.stages, engine, built)
        ways.select(repin)
        report(ways)  # also where a gate is closed
        run_stages(ways, ways.later, engine, built)
        publish(ways, engine, built)
    return built


def run_stages(ways: Pipeline, stages: Sequence[Stage], engine: Engine, built: Built) -> None:
    """Each in turn, also where one before it left something undone; then nothing is selected or published after it."""
    failures: list[Failure] = []
    for stage in stages:
        try:
            built.rows[stage.name] = run_stage(ways.lake, stage, engine, ways.recipe.shard_rows)
        except BatchesFailed as error:
            get_run_logger().error("%s", error)
            failures += error.failures
    if failures:
        show_table(
            key=key_of("failed", ways.recipe.name),
            table=[vars(one) for one in failures],
            description=f"What this run left undone of {ways.recipe.name}; the next one does it",
        )
        raise BatchesFailed(failures)


def publish(ways: Pipeline, engine: Engine, built: Built) -> None:
    while True:
        publication: Publication = ways.plan_publication()
        ways.pass_gates(publication)
        watcher.get().planned("publish", publication.rows)
        version = ways.commit(publication, write_files(ways, publication, engine))
        if version is not None:
            published(ways, built, publication, version)
            show_histograms(ways.lake, built)
            if built.anything_changed:
                dataset_made(ways.lake, ways.recipe, built)
                dataset_published(ways.lake.url, built.dataset, version, samples=built.kept, added=built.added)
            if built.warning:
                get_run_logger().warning("%s@%d is published, but %s", built.dataset, version, built.warning)
            return


def write_files(ways: Pipeline, publication: Publication, engine: Engine) -> list[ShardResult]:
    """All of a version's files, or none of them is named."""
    if not publication.shards:
        return []

    def work() -> list[ShardResult]:
        failures: list[Failure] = []
        batches = list(map_batches(ways.publish, publication.shards, engine, failures))
        if failures:
            raise BatchesFailed(failures)
        return [one for written in batches for one in written]

    return as_run("publish", engine, work, len(publication.shards), publication.rows)


def report(ways: Pipeline) -> None:
    """The funnel, for whoever looks at the run."""
    steps = funnel(ways.lake, ways.selection)
    total = steps[0].left or 1
    show_table(
        key=key_of("funnel", ways.recipe.name),
        table=[{"step": s.name, "dropped": s.dropped, "left": s.left, "share": f"{s.left / total:.1%}"} for s in steps],
        description=f"What became of the {steps[0].left:,} pairs of {ways.recipe.name}",
    )


def show_histograms(lake: Lake, built: Built) -> None:
    """How what was kept and what was dropped differ, for whoever looks at the run."""
    if png := read_histograms(lake, built.dataset):
        show_markdown(
            f"{built.dataset}@{built.version}, {built.kept:,} samples; the whole report is {built.report}\n\n"
            + picture("kept and dropped by their scores", png),
            key=key_of("histograms", built.dataset),
        )
