"""The whole data way as plain functions: what the flow `rebuild` runs under Prefect, a notebook can run without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from data.download import Download
from data.embed import Embed
from data.encoder import encoder_of
from data.engine import Engine
from data.ingest import Ingested, ingest
from data.lake import Lake
from data.publish import Publication, Publish, lineage
from data.recipe import Recipe
from data.score import CaptionScorer, Judge, Look, PictureScorer, Read, VectorScorer
from data.select import Selection, select
from data.stage import Plan, Stage, Written, run_stage

ROWS_PER_FILE = 5_000  # of a published dataset


@dataclass(frozen=True)
class Way:
    """The stages of one recipe over one lake."""

    lake: Lake
    recipe: Recipe
    stages: tuple[Stage, ...]
    selection: Selection
    embeds: tuple[Stage, ...]  # after selecting: only what is kept is worth it
    publish: Publish

    def ingest(self, now: datetime | None = None) -> Ingested:
        return ingest(self.lake, self.recipe.sources, now or datetime.now(UTC))

    def select(self, repin: bool = False) -> bool:
        return select(self.lake, self.selection, repin)

    def plan_publication(self) -> Publication:
        return self.publish.plan(ROWS_PER_FILE)

    def commit(self, publication: Publication, written: list[Written]) -> int | None:
        """Make the dataset version; the newest one's number where there is nothing to change. None: plan again."""
        if not publication.shards and not publication.stale and publication.table.version > 0:
            return publication.table.version
        verdicts = self.lake.table(self.selection.table)
        inputs = {**verdicts.record()["inputs"], verdicts.name: verdicts.version}
        inputs |= {table: self.lake.table(table).version for table, _ in self.publish.embeddings.values()}
        recipe = self.recipe.model_dump(mode="json")
        return self.publish.commit(publication, written, lineage(recipe, self.recipe.hash, inputs))


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

    @property
    def anything_done(self) -> bool:
        return bool(self.new_pairs or self.added or self.removed or any(self.rows.values()))


def way(lake: Lake, recipe: Recipe) -> Way:
    scorers = recipe.scores
    vectors = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, VectorScorer)}
    looking = [scorer for scorer in scorers.values() if isinstance(scorer, PictureScorer)]
    looking += [one for scorer in vectors.values() for one in scorer.sees()]
    stages: list[Stage] = [Download(lake, recipe.download)]
    stages += [Read(lake, one, f"score-{name}") for name, one in scorers.items() if isinstance(one, CaptionScorer)]
    stages += [Look(lake, tuple({one.table: one for one in looking}.values()))] if looking else []
    stages += [Judge(lake, scorer, f"score-{name}") for name, scorer in vectors.items()]
    selection = Selection(recipe.name, recipe.criteria, recipe.judged)
    embeds = {name: Embed(lake, recipe.name, encoder_of(one), f"embed-{name}") for name, one in recipe.embed.items()}
    joined = {
        name: (one.table, one.encoder.settings.dtype) for name, one in embeds.items() if recipe.embed[name].publish
    }
    publish = Publish(lake, recipe.name, recipe.scores, joined)
    return Way(lake, recipe, tuple(stages), selection, tuple(embeds.values()), publish)


def build(
    lake: Lake,
    recipe: Recipe,
    engine: Engine,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[Written], None] = lambda written: None,
) -> Built:
    """Every stage in order, until nothing is pending and the version is published."""
    ways = way(lake, recipe)
    built = Built(recipe.name, 0, ways.ingest().new)
    for stage in ways.stages:
        built.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    ways.select()
    for stage in ways.embeds:
        built.rows[stage.name] = run_stage(lake, stage, engine, recipe.shard_rows, on_plan=on_plan, on_shard=on_shard)
    while True:
        publication = ways.plan_publication()
        written = list(engine.map(ways.publish.work, publication.shards))
        version = ways.commit(publication, written)
        if version is not None:
            return published(built, publication, version)


def published(built: Built, publication: Publication, version: int) -> Built:
    built.version, built.kept = version, publication.kept
    built.added, built.removed = publication.added, publication.removed
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
    }
