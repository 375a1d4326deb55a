"""Makes the stages of a recipe on a lake, in order. Builds, dry runs and flows all use this pipeline."""

from dataclasses import dataclass
from datetime import UTC, datetime

from data.build.recipe import Recipe
from data.encoders.embed import Embed
from data.encoders.encoder import encoder_of
from data.engine.stage import ShardResult, Stage
from data.fetch.download import Download
from data.lake.lake import Lake
from data.lake.lineage import lineage
from data.publish.gates import pass_gates
from data.publish.publish import EmbeddingSource, Publication, Publish
from data.publish.versions import newest_version
from data.report.write import write_pages
from data.scorers.scorer import CaptionScorer, PictureScorer, VectorScorer, method_of
from data.scorers.stages import ScoreCaptions, ScorePictures, ScoreVectors
from data.select.judgement import select
from data.select.selection import Selection
from data.sources.ingest import IngestSummary, ingest

ROWS_PER_FILE = 5_000  # rows per file in a published dataset


@dataclass(frozen=True)
class Pipeline:
    """The steps to build one recipe in one lake.

    The order is: `ingest`, `stages`, `select`, `stages_after_selection`, `plan_publication`, `pass_gates`,
    `publish.work` on the plan's shards, `commit`, `write_pages`.
    """

    lake: Lake
    recipe: Recipe
    stages: tuple[Stage, ...]  # download and scoring of all pairs
    selection: Selection
    stages_after_selection: tuple[Stage, ...]  # captioning and embedding: expensive, so only for kept pairs
    publish: Publish

    def ingest(self, now: datetime | None = None) -> IngestSummary:
        """Read new pairs from the recipe's sources. `now` is recorded as the time when they were first seen."""
        return ingest(self.lake, self.recipe.sources, now or datetime.now(UTC))

    def select(self, repin: bool = False) -> bool:
        """Write the verdict on every pair, unless criteria and input tables are unchanged.

        Args:
            repin: compute the cuts of `top` criteria again; otherwise the cuts of the last selection are used.

        Returns:
            True if verdicts were written.
        """
        return select(self.lake, self.selection, repin)

    def plan_publication(self) -> Publication:
        """Compare the kept pairs with the current version."""
        return self.publish.plan(ROWS_PER_FILE)

    def pass_gates(self, publication: Publication) -> None:
        """Check the recipe's gates before any file is written. If nothing would change, nothing is checked.

        Raises:
            GateClosed: the version must not be published.
        """
        if publication.shards or publication.stale:
            pass_gates(self.lake, self.recipe.gates, self.publish)

    def commit(self, publication: Publication, written: list[ShardResult]) -> int | None:
        """Publish a version with its lineage.

        Returns:
            The number of the new version, or of the current version if nothing has changed. None if another build has
            published since the plan was made; then plan again.
        """
        current = newest_version(self.lake, self.publish.dataset)
        if not publication.shards and not publication.stale and current is not None:
            return current.version
        verdicts = self.lake.table(self.selection.table)
        inputs = {**verdicts.last_record()["inputs"], verdicts.name: verdicts.version}
        tables = {describer.table for describer in self.recipe.describers.values()}
        tables |= {source.table for source in self.publish.embeddings.values()}
        inputs |= {table: self.lake.table(table).version for table in sorted(tables)}
        recipe = self.recipe.model_dump(mode="json")
        return self.publish.commit(publication, written, lineage(recipe, self.recipe.hash, inputs))

    def write_pages(self, version: int) -> str | None:
        """Write the version's card and report.

        Returns:
            None, or a sentence that says why the pages could not be written. The version stays published in both cases.
        """
        try:
            write_pages(self.lake, self.recipe.card, self.selection, self.publish, version)
        except Exception as error:  # noqa: BLE001 - an error of any kind in a page must not fail a published build
            return (
                f"its card and report could not be written: {type(error).__name__}: {error}. Build again to write them"
            )
        return None


def make_pipeline(lake: Lake, recipe: Recipe) -> Pipeline:
    """Make the pipeline of a recipe on a lake."""
    selection = Selection(recipe.name, recipe.criteria, recipe.selection_scorers)
    later, embeddings = _stages_after_selection(lake, recipe)
    publish = Publish(lake, recipe.name, recipe.scores, embeddings, recipe.copy_settings)
    return Pipeline(lake, recipe, tuple(_scoring_stages(lake, recipe)), selection, tuple(later), publish)


def _scoring_stages(lake: Lake, recipe: Recipe) -> list[Stage]:
    """Make the stages for download and for the scorers of captions, pictures, and vectors computed from pictures."""
    caption_scorers = {name: s for name, s in recipe.scores.items() if isinstance(s, CaptionScorer)}
    vector_scorers = {name: s for name, s in recipe.scores.items() if isinstance(s, VectorScorer)}
    picture_scorers = [
        scorer
        for name, scorer in recipe.scores.items()
        if isinstance(scorer, PictureScorer) and name not in recipe.describers
    ]
    for scorer in vector_scorers.values():
        picture_scorers += method_of(scorer, "inputs")()
    stages: list[Stage] = [Download(lake, recipe.download)]
    stages += [ScoreCaptions(lake, scorer, f"score-{name}") for name, scorer in caption_scorers.items()]
    if picture_scorers:
        by_table = {scorer.table: scorer for scorer in picture_scorers}  # several scorers may need the same vectors
        stages.append(ScorePictures(lake, tuple(by_table.values())))
    stages += [ScoreVectors(lake, scorer, f"score-{name}") for name, scorer in vector_scorers.items()]
    return stages


def _stages_after_selection(lake: Lake, recipe: Recipe) -> tuple[list[Stage], dict[str, EmbeddingSource]]:
    """Make the stages that caption and embed kept pairs, and list the embeddings to publish, keyed by encoder name."""
    stages: list[Stage] = [
        ScorePictures(lake, (describer,), f"describe-{name}", kept_by=recipe.name)
        for name, describer in recipe.describers.items()
    ]
    embeddings = {}
    for name, settings in recipe.embed.items():
        describer = recipe.describers[settings.of] if settings.of else None
        embed = Embed(lake, recipe.name, encoder_of(settings), f"embed-{name}", describer)
        stages.append(embed)
        if settings.publish:
            text_column = f"{settings.of}_text" if settings.of else "caption"
            embeddings[name] = EmbeddingSource(embed.table, settings.dtype, text_column)
    return stages, embeddings
