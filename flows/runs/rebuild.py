"""The flow `rebuild`: run every data stage as a separate flow run, then publish the version."""

from collections.abc import Sequence

from prefect import flow, get_run_logger

from data.build.build import BuildResult, finish_build
from data.build.pipeline import Pipeline, make_pipeline
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
) -> BuildResult:
    """Build a dataset by its recipe, and publish a version if anything changed.

    Args:
        recipe: a recipe (.yaml), or the name of a shipped one
        lake: folder or URL of the lake; made if it does not exist
        sources: files to read instead of the recipe's sources
        changes: values of the recipe to change, such as select.clip_score.min=0.3
        repin: compute the cuts of `top` criteria again instead of keeping them
        workers: worker processes; one per core if not given
        buckets: number of buckets if the lake is new
    """
    if count := patiently(supersede):
        get_run_logger().info("%d more runs are due: this run does their work", count)
    loaded = load_recipe(recipe, tuple(sources or ()), tuple(changes or ()))
    pipeline = make_pipeline(open_checked_lake(lake, loaded.sources, buckets), loaded)
    built = BuildResult(loaded.name, 0, pipeline.ingest().new)
    watcher.get().planned("ingest", built.new_pairs)
    watcher.get().done("ingest", built.new_pairs)
    with open_engine(workers) as engine:
        run_stages(pipeline, pipeline.stages, engine, built)
        pipeline.select(repin)
        report(pipeline)  # also where a gate is closed
        run_stages(pipeline, pipeline.stages_after_selection, engine, built)
        publish(pipeline, engine, built)
    return built


def run_stages(pipeline: Pipeline, stages: Sequence[Stage], engine: Engine, built: BuildResult) -> None:
    """Run stages in order.

    If a stage leaves failed batches, later stages still run, but nothing is selected or published.

    Raises:
        BatchesFailed: a stage left failed batches.
    """
    failures: list[Failure] = []
    for stage in stages:
        try:
            built.rows[stage.name] = run_stage(pipeline.lake, stage, engine, pipeline.recipe.shard_rows)
        except BatchesFailed as error:
            get_run_logger().error("%s", error)
            failures += error.failures
    if failures:
        show_table(
            key=key_of("failed", pipeline.recipe.name),
            table=[vars(failure) for failure in failures],
            description=f"Batches of {pipeline.recipe.name} that failed; the next run does them",
        )
        raise BatchesFailed(failures)


def publish(pipeline: Pipeline, engine: Engine, built: BuildResult) -> None:
    """Publish a version if anything changed. If another process published meanwhile, plan again."""
    while True:
        publication: Publication = pipeline.plan_publication()
        pipeline.pass_gates(publication)
        watcher.get().planned("publish", publication.rows)
        version = pipeline.commit(publication, write_files(pipeline, publication, engine))
        if version is not None:
            finish_build(pipeline, built, publication, version)
            show_histograms(pipeline.lake, built)
            if built.anything_changed:
                dataset_made(pipeline.lake, pipeline.recipe, built)
                dataset_published(pipeline.lake.url, built.dataset, version, samples=built.kept, added=built.added)
            if built.warning:
                get_run_logger().warning("%s@%d is published, but %s", built.dataset, version, built.warning)
            return


def write_files(pipeline: Pipeline, publication: Publication, engine: Engine) -> list[ShardResult]:
    """Write the files of a version. Nothing is published unless all are written."""
    if not publication.shards:
        return []

    def work() -> list[ShardResult]:
        failures: list[Failure] = []
        batches = list(map_batches(pipeline.publish, publication.shards, engine, failures))
        if failures:
            raise BatchesFailed(failures)
        return [result for results in batches for result in results]

    return as_run("publish", engine, work, len(publication.shards), publication.rows)


def report(pipeline: Pipeline) -> None:
    """Show the funnel as an artifact of the run."""
    steps = funnel(pipeline.lake, pipeline.selection)
    total = steps[0].left or 1
    show_table(
        key=key_of("funnel", pipeline.recipe.name),
        table=[{"step": s.name, "dropped": s.dropped, "left": s.left, "share": f"{s.left / total:.1%}"} for s in steps],
        description=f"Funnel of the {steps[0].left:,} pairs of {pipeline.recipe.name}",
    )


def show_histograms(lake: Lake, built: BuildResult) -> None:
    """Show the score histograms of kept and dropped pairs as an artifact of the run."""
    if png := read_histograms(lake, built.dataset):
        show_markdown(
            f"{built.dataset}@{built.version}, {built.kept:,} samples; report: {built.report}\n\n"
            + picture("scores of kept and dropped pairs", png),
            key=key_of("histograms", built.dataset),
        )
