"""Publishes kept pairs as a dataset version: a version of the table `datasets/<name>`, ready for training.

Publishing is incremental: a file is written again only if one of its rows was removed or changed. It is atomic: one
commit makes the version, and the commit's metadata contains its lineage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from data.encoders.embed import read_embeddings, vector_size
from data.engine.stage import Shard, ShardResult
from data.lake.lake import Lake
from data.lake.reading import read_pictures
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import Table
from data.pictures.prepare import PictureSettings, shrink_pictures
from data.publish.hf_features import hf_metadata
from data.scorers.scorer import Scorer

PICTURE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as Hugging Face's Image is stored
SAMPLE = [  # the columns that every dataset has
    pa.field("id", pa.string()),
    pa.field("url", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("image", PICTURE_TYPE),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
]
MAX_EMBEDDING_BYTES = 1 << 29  # bytes of embeddings in one file: T5-XXL embeddings are far larger than the pictures


class EmbeddingSource(NamedTuple):
    """A table of text embeddings that becomes columns of the dataset."""

    table: str
    dtype: str
    text_column: str = "caption"  # the column of texts that are embedded


@dataclass
class Publication:
    """A planned version: the files of the current version to remove, the rows to write, and the row counts."""

    table: Table
    shards: list[Shard] = field(default_factory=list)  # rows to write
    stale: list[str] = field(default_factory=list)  # files to remove
    added: int = 0
    removed: int = 0
    changed: int = 0
    kept: int = 0  # rows that the version will have

    @property
    def rows(self) -> int:
        """The number of rows to write."""
        return sum(shard.rows.num_rows for shard in self.shards)


@dataclass(frozen=True)
class Publish:
    """The publishing stage of one dataset. It reads verdicts, pairs, images, scores and embeddings."""

    lake: Lake
    dataset: str
    scores: Mapping[str, Scorer]  # name in the recipe → scorer whose facts become columns
    embeddings: Mapping[str, EmbeddingSource] = field(default_factory=dict)  # encoder's name in the recipe → table
    sizes: tuple[PictureSettings, ...] = ()  # settings of smaller copies of the pictures
    name: str = "publish"

    @property
    def table(self) -> str:
        """The name of the dataset's table."""
        return f"datasets/{self.dataset}"

    @property
    def score_columns(self) -> list[str]:
        """The columns <score>_<fact> of all scores. A fact is a column that a scorer computes."""
        return [f"{name}_{fact}" for name, scorer in self.scores.items() for fact in scorer.facts]

    @property
    def numeric_columns(self) -> list[str]:
        """The score columns that contain numbers."""
        return [f.name for f in self.schema() if f.name in self.score_columns and not pa.types.is_string(f.type)]

    @property
    def copy_columns(self) -> dict[str, PictureSettings]:
        """The columns with smaller copies of the pictures, each with its settings."""
        return {f"image_{settings.image_size}": settings for settings in self.sizes}

    @property
    def compared_columns(self) -> list[str]:
        """The columns that are compared to find out whether a published row has changed."""
        return ["sha256", *self.score_columns]

    @property
    def derived_content(self) -> dict[str, Any]:
        """The tables and settings that determine the columns of embeddings and of smaller copies.

        Each commit records them, so that the next build can compare them with its own.
        """
        copies = {name: settings.model_dump(mode="json") for name, settings in self.copy_columns.items()}
        tables = {name: source.table for name, source in self.embeddings.items()}
        texts = {name: source.text_column for name, source in self.embeddings.items()}
        other_texts = {name: column for name, column in texts.items() if column != "caption"}
        content = {"embeddings": tables, "copies": copies}
        return content | ({"texts": other_texts} if other_texts else {})

    def schema(self) -> pa.Schema:
        """Return the schema of the dataset's files: SAMPLE, smaller copies, scores, embeddings and their lengths."""
        scored = [
            scorer.columns.field(fact).with_name(f"{name}_{fact}")
            for name, scorer in self.scores.items()
            for fact in scorer.facts
        ]
        copies = [pa.field(name, PICTURE_TYPE) for name in self.copy_columns]
        embedding_types = (("embedding", pa.binary()), ("length", pa.int32()))
        embedded = [pa.field(f"{name}_{column}", type) for name in self.embeddings for column, type in embedding_types]
        return pa.schema([*SAMPLE, *copies, *scored, *embedded])

    def plan(self, shard_rows: int) -> Publication:
        """Compare the selected rows with the current version. Makes the dataset's table if it does not exist.

        Args:
            shard_rows: the most rows in a written file. Files have fewer rows if embeddings are large.
        """
        table = self.lake.table_or_make(self.table, self.schema())
        publication, snapshot = Publication(table), self.lake.snapshot()
        unchanged = self._unchanged_condition(table.last_record() if self.embeddings or self.sizes else {})
        for source in self.embeddings.values():
            row_bytes = self.lake.table(source.table).mean_row_bytes()
            shard_rows = min(shard_rows, max(1, MAX_EMBEDDING_BYTES // row_bytes))
        for bucket in self.lake.buckets:
            self._plan_bucket(publication, snapshot, bucket, shard_rows, unchanged)
        return publication

    def selected_rows(self, bucket: int, lake: Lake | None = None) -> pa.Table:
        """Return the kept pairs of a bucket with their scores, but without pictures.

        The column `file` names the file of `images` that contains the picture.
        """
        lake = lake or self.lake
        columns = "".join(f", {n}.{c} AS {n}_{c}" for n, scorer in self.scores.items() for c in scorer.facts)
        joins = "".join(f" LEFT JOIN {name} ON {name}.id = pairs.id" for name in self.scores)
        images = lake.table("images").read_with_files(bucket, ["id", "width", "height", "sha256"])
        return query(
            f"SELECT pairs.id AS id, url, caption, width, height, images.sha256{columns}, file FROM verdicts "
            f"JOIN pairs ON pairs.id = verdicts.id JOIN images ON images.id = verdicts.id{joins} WHERE kept",
            verdicts=lake.table(f"verdicts/{self.dataset}").dataset(bucket),
            pairs=lake.table("pairs").dataset(bucket),
            images=images,
            **{name: lake.table(scorer.table).dataset(bucket) for name, scorer in self.scores.items()},
        )

    def work(self, shard: Shard) -> ShardResult:
        """Write one file of the dataset: read the pictures, make smaller copies, join embeddings. Runs in a worker."""
        pictures = list(read_pictures(self.lake, shard.rows))
        columns = {name: shard.rows[name] for name in shard.rows.column_names if name != "file"}
        columns["image"] = _picture_column(pictures)
        for name, settings in self.copy_columns.items():
            columns[name] = _picture_column(shrink_pictures(pictures, settings))
        vectors: dict[str, Any] = {}
        for name, (table, dtype, text_column) in self.embeddings.items():
            texts = read_embeddings(self.lake, table, shard.rows[text_column])
            columns |= {f"{name}_{column}": texts[column] for column in ("embedding", "length")}
            vectors[name] = {"dtype": dtype, "dim": vector_size(texts)}
        rows = pa.table(columns).select(self.schema().names)
        metadata = hf_metadata(self.schema()) | ({"imagen": json.dumps({"embeddings": vectors})} if vectors else {})
        rows = rows.cast(self.schema()).replace_schema_metadata(metadata)
        return ShardResult(rows.num_rows, {self.table: write_file(self.lake.table_url(self.table), shard.bucket, rows)})

    def commit(self, publication: Publication, written: list[ShardResult], record: dict[str, Any]) -> int | None:
        """Make the version in one commit.

        Returns:
            The version's number, or None if another process has published since the plan. Then nothing is changed.
        """
        files = [result.files[self.table] for result in written]
        counts = {name: getattr(publication, name) for name in ("kept", "added", "removed", "changed")}
        if publication.table.replace(files, publication.stale, {**counts, **self.derived_content, **record}):
            return publication.table.version
        return None

    def _unchanged_condition(self, record: Mapping[str, Any]) -> str:
        """Return a SQL condition over `selected` and `published`: a published row would be written again identically.

        An encoder's vectors for a text never change. So an embedding column is unchanged if the previous version took
        it from the same table, and the row has vectors or no text. Smaller copies are unchanged if their settings are
        unchanged.

        Args:
            record: the commit record of the previous version.
        """
        published_copies, copies = record.get("copies", {}), self.derived_content["copies"]
        if {name: published_copies.get(name) for name in copies} != copies:
            return "false"
        conditions = [f"selected.{column} IS NOT DISTINCT FROM published.{column}" for column in self.compared_columns]
        for name, (table, _, text_column) in self.embeddings.items():
            same_table = record.get("embeddings", {}).get(name) == table
            same_text = record.get("texts", {}).get(name, "caption") == text_column
            if same_table and same_text:
                conditions.append(f"(published.{name}_length IS NOT NULL OR selected.{text_column} IS NULL)")
            else:
                conditions.append("false")
        return " AND ".join(conditions)

    def _plan_bucket(
        self, publication: Publication, snapshot: Lake, bucket: int, shard_rows: int, unchanged: str
    ) -> None:
        """Add a bucket's stale files, rows to write and row counts to the publication."""
        selected = self.selected_rows(bucket, snapshot)
        lengths = [f"{name}_length" for name in self.embeddings]
        published = publication.table.read_with_files(bucket, ["id", *self.compared_columns, *lengths])
        compared = query(
            "SELECT coalesce(selected.id, published.id) AS id, published.file AS file, "
            "CASE WHEN published.id IS NULL THEN 'added' "
            f"WHEN selected.id IS NULL THEN 'removed' WHEN {unchanged} THEN 'same' ELSE 'changed' END AS change "
            "FROM selected FULL JOIN published ON selected.id = published.id",
            selected=selected,
            published=published,
        )
        counts = query("SELECT change, count(*) AS n FROM compared GROUP BY change", compared=compared).to_pylist()
        count = {row["change"]: row["n"] for row in counts}
        publication.added += count.get("added", 0)
        publication.removed += count.get("removed", 0)
        publication.changed += count.get("changed", 0)
        publication.kept += selected.num_rows
        sql = "SELECT DISTINCT file FROM compared WHERE change IN ('removed', 'changed')"
        stale = query(sql, compared=compared)
        publication.stale += stale["file"].to_pylist()
        rows = query(
            "SELECT selected.* FROM selected JOIN compared USING (id) "
            "WHERE change = 'added' OR compared.file IN (SELECT file FROM stale) ORDER BY id",
            selected=selected,
            compared=compared,
            stale=stale,
        )
        publication.shards += [Shard(bucket, rows.slice(at, shard_rows)) for at in range(0, rows.num_rows, shard_rows)]


def _picture_column(pictures: list[bytes]) -> pa.Array:
    paths = pa.nulls(len(pictures), pa.string())
    return pa.StructArray.from_arrays([pa.array(pictures, pa.binary()), paths], fields=list(PICTURE_TYPE))
