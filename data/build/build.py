"""The whole data way as plain functions: what the flow `rebuild` runs under Prefect, a notebook can run without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from data.build.pipeline import Pipeline, pipeline_of
from data.build.recipe import Recipe
from data.engine.pool import Engine
from data.engine.stage import Plan, ShardResult, run_stage
from data.lake.lake import Lake
from data.publish.publish import Publication
from data.report.write import record_build, report_url


@dataclass
class Built:
    """What a build came to."""

    dataset: str
    version: int
    new_pairs: int
    rows: dict[str, int] = field(default_factory=dict)  # done by each stage
    kept: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    report: str = field(default="", compare=False)  # where it lies
    warning: str | None = None

    @property
    def anything_done(self) -> bool:
        return bool(self.new_pairs or self.anything_changed or any(self.rows.values()))

    @property
    def anything_changed(self) -> bool:
        """In the dataset, since the version before."""
        return bool(self.added or self.removed or self.changed)


def build(
    lake: Lake,
    recipe: Recipe,
    engine: Engine,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda written: None,
) -> Built:
    """Every stage in order, until nothing is pending and the version is published."""
    ways = pipeline_of(lake, recipe)
    built = Built(recipe.name, 0, ways.ingest().new)
    for stage in ways.stages:
        built.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    ways.select()
    for stage in ways.later:
        built.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    while True:
        publication = ways.plan_publication()
        ways.pass_gates(publication)
        written = list(engine.map(ways.publish.work, publication.shards))
        version = ways.commit(publication, written)
        if version is not None:
            return published(ways, built, publication, version)


def published(ways: Pipeline, built: Built, publication: Publication, version: int) -> Built:
    """Note what was published, and write what lies beside it."""
    built.version, built.kept = version, publication.kept
    built.added, built.removed, built.changed = publication.added, publication.removed, publication.changed
    built.report, built.warning = report_url(ways.lake, built.dataset), ways.write_pages(version)
    record_build(ways.lake, built.dataset, version)
    return built


def describe(built: Built) -> dict[str, Any]:
    """For programs that read: --json and artifacts."""
    return {
        "dataset": built.dataset,
        "version": built.version,
        "new_pairs": built.new_pairs,
        "rows": built.rows,
        "kept": built.kept,
        "added": built.added,
        "removed": built.removed,
        "changed": built.changed,
        "report": built.report,
        "warning": built.warning,
    }
