"""The stages that a recipe makes of a lake, in order. Plans, builds and flows take them from here."""

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
from data.scorers.scorer import CaptionScorer, PictureScorer, VectorScorer
from data.scorers.stages import ScoreCaptions, ScorePictures, ScoreVectors
from data.select.judgement import select
from data.select.selection import Selection
from data.sources.ingest import IngestSummary, ingest

ROWS_PER_FILE = 5_000  # of a published dataset


@dataclass(frozen=True)
class Pipeline:
    """The stages of one recipe over one lake."""

    lake: Lake
    recipe: Recipe
    stages: tuple[Stage, ...]
    selection: Selection
    later: tuple[Stage, ...]  # after selecting: describing and embedding, which only what is kept is worth
    publish: Publish

    def ingest(self, now: datetime | None = None) -> IngestSummary:
        return ingest(self.lake, self.recipe.sources, now or datetime.now(UTC))

    def select(self, repin: bool = False) -> bool:
        return select(self.lake, self.selection, repin)

    def plan_publication(self) -> Publication:
        return self.publish.plan(ROWS_PER_FILE)

    def pass_gates(self, publication: Publication) -> None:
        """Raise GateClosed if what is about to be published must not be; before any of its files is written."""
        if publication.shards or publication.stale:
            pass_gates(self.lake, self.recipe.gates, self.publish)

    def commit(self, publication: Publication, written: list[ShardResult]) -> int | None:
        """Make the dataset version; the newest one's number where there is nothing to change. None: plan again."""
        current = newest_version(self.lake, self.publish.dataset)
        if not publication.shards and not publication.stale and current is not None:
            return current.version
        verdicts = self.lake.table(self.selection.table)
        inputs = {**verdicts.last_record()["inputs"], verdicts.name: verdicts.version}
        read = {one.table for one in self.recipe.describers.values()}
        read |= {one.table for one in self.publish.embeddings.values()}
        inputs |= {table: self.lake.table(table).version for table in sorted(read)}
        recipe = self.recipe.model_dump(mode="json")
        return self.publish.commit(publication, written, lineage(recipe, self.recipe.hash, inputs))

    def write_pages(self, version: int) -> str | None:
        """Write the version's card and report. What went wrong, in words: the version stands all the same."""
        try:
            write_pages(self.lake, self.recipe.card, self.selection, self.publish, version)
        except Exception as error:  # noqa: BLE001 - told: whatever is wrong with a page, what it describes is published
            return (
                f"its card and report could not be written: {type(error).__name__}: {error}. Build again to write them"
            )
        return None


def pipeline_of(lake: Lake, recipe: Recipe) -> Pipeline:
    scorers = recipe.scores
    vectors = {name: scorer for name, scorer in scorers.items() if isinstance(scorer, VectorScorer)}
    describers = recipe.describers
    looking = [one for name, one in scorers.items() if isinstance(one, PictureScorer) and name not in describers]
    looking += [one for scorer in vectors.values() for one in scorer.inputs()]
    stages: list[Stage] = [Download(lake, recipe.download)]
    stages += [
        ScoreCaptions(lake, one, f"score-{name}") for name, one in scorers.items() if isinstance(one, CaptionScorer)
    ]
    stages += [ScorePictures(lake, tuple({one.table: one for one in looking}.values()))] if looking else []
    stages += [ScoreVectors(lake, scorer, f"score-{name}") for name, scorer in vectors.items()]
    selection = Selection(recipe.name, recipe.criteria, recipe.judged)
    later: list[Stage] = [
        ScorePictures(lake, (one,), f"describe-{name}", kept_by=recipe.name) for name, one in describers.items()
    ]
    joined = {}
    for name, one in recipe.embed.items():
        embed = Embed(lake, recipe.name, encoder_of(one), f"embed-{name}", describers[one.of] if one.of else None)
        later.append(embed)
        if one.publish:
            joined[name] = EmbeddingSource(embed.table, one.dtype, f"{one.of}_text" if one.of else "caption")
    publish = Publish(lake, recipe.name, recipe.scores, joined, recipe.copies)
    return Pipeline(lake, recipe, tuple(stages), selection, tuple(later), publish)
