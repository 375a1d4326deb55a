"""Builds a dataset with plain functions, without Prefect. The flow `rebuild` runs the same pipeline under Prefect."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data.build.pipeline import Pipeline, make_pipeline
from data.build.recipe import Recipe
from data.engine.pool import Engine
from data.engine.stage import Plan, ShardResult, run_stage
from data.lake.lake import Lake
from data.publish.publish import Publication
from data.report.write import record_build, report_url


@dataclass
class BuildResult:
    """The outcome of a build, with the version that is current after it."""

    dataset: str
    version: int
    new_pairs: int
    rows: dict[str, int] = field(default_factory=dict)  # stage → rows that it processed
    kept: int = 0  # rows in the version
    added: int = 0  # rows since the previous version
    removed: int = 0
    changed: int = 0
    report: str = field(default="", compare=False)  # URL of the report
    warning: str | None = None  # the reason why card and report could not be written

    @property
    def anything_done(self) -> bool:
        """Whether there were new pairs, pending rows, or changes in the dataset."""
        return bool(self.new_pairs or self.anything_changed or any(self.rows.values()))

    @property
    def anything_changed(self) -> bool:
        """Whether rows were added, removed or changed since the previous version."""
        return bool(self.added or self.removed or self.changed)


def build(
    lake: Lake,
    recipe: Recipe,
    engine: Engine,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda result: None,
) -> BuildResult:
    """Run all stages of a recipe until nothing is pending, and publish a version if anything changed.

    Only pending work is done. To continue an interrupted build, call this again. Several builds may run on the same
    lake at the same time.

    Args:
        lake: the lake to build in.
        recipe: the dataset's recipe.
        engine: runs the shards of each stage.
        on_plan: called with each plan before its shards run.
        on_shard: called with the result of each shard.

    Raises:
        GateClosed: the selected rows don't pass the recipe's gates. All other work is kept.
        SourceError: a source can't be read.

    Example:
        >>> with open_engine() as engine:
        ...     result = build(Lake.open("lake"), load_recipe("mine.yaml"), engine)
    """
    pipeline = make_pipeline(lake, recipe)
    result = BuildResult(recipe.name, 0, pipeline.ingest().new)
    for stage in pipeline.stages:
        result.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    pipeline.select()
    for stage in pipeline.stages_after_selection:
        result.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    while True:
        publication = pipeline.plan_publication()
        pipeline.pass_gates(publication)
        written = list(engine.map(pipeline.publish.work, publication.shards))
        version = pipeline.commit(publication, written)
        if version is not None:
            return finish_build(pipeline, result, publication, version)


def finish_build(pipeline: Pipeline, result: BuildResult, publication: Publication, version: int) -> BuildResult:
    """Complete the result of a build that has published, write the version's pages, and record the end of the build."""
    result.version, result.kept = version, publication.kept
    result.added, result.removed, result.changed = publication.added, publication.removed, publication.changed
    result.report, result.warning = report_url(pipeline.lake, result.dataset), pipeline.write_pages(version)
    record_build(pipeline.lake, result.dataset, version)
    return result


def describe_build(result: BuildResult) -> dict[str, Any]:
    """Convert the result to JSON values, for `--json` and Prefect artifacts."""
    return {
        "dataset": result.dataset,
        "version": result.version,
        "new_pairs": result.new_pairs,
        "rows": result.rows,
        "kept": result.kept,
        "added": result.added,
        "removed": result.removed,
        "changed": result.changed,
        "report": result.report,
        "warning": result.warning,
    }
