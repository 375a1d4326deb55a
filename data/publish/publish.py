"""Kept pairs become training-ready samples: `datasets/<name>`, where a table version is a dataset version.

Publishing is incremental and atomic: rows that stay cost nothing, a file is written again only if a row in it went or
changed, and one commit makes the version, with its lineage in the commit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from data.encoders.embed import dim_of, texts_of
from data.engine.stage import Shard, Written
from data.lake.lake import Lake
from data.lake.reading import read_pictures
from data.lake.sql import query
from data.lake.table import Table, write_file
from data.pictures.prepare import PictureSettings, smaller
from data.publish.hf_features import note_of
from data.scorers.scorer import Scorer

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as Hugging Face's Image is stored
SAMPLE = [
    pa.field("id", pa.string()),
    pa.field("url", pa.string()),
    pa.field("caption", pa.string()),
    pa.field("image", PICTURE),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
]
EMBEDDED_BYTES = 1 << 29  # of embeddings joined into one file: a T5-XXL's take far more room than the pictures


class Joined(NamedTuple):
    """Embeddings that become columns."""

    table: str
    dtype: str
    text: str = "caption"  # the column whose texts they are of


@dataclass
class Publication:
    """What publishing is about to do: files that no longer hold, rows to write."""

    table: Table
    shards: list[Shard] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    added: int = 0
    removed: int = 0
    changed: int = 0
    kept: int = 0

    @property
    def rows(self) -> int:
        return sum(shard.rows.num_rows for shard in self.shards)


@dataclass(frozen=True)
class Publish:
    """The stage. Reads verdicts, pairs, images, scores and embeddings."""

    lake: Lake
    dataset: str
    scores: Mapping[str, Scorer]
    embeddings: Mapping[str, Joined] = field(default_factory=dict)
    sizes: tuple[PictureSettings, ...] = ()  # of smaller copies
    name: str = "publish"

    @property
    def table(self) -> str:
        return f"datasets/{self.dataset}"

    @property
    def score_columns(self) -> list[str]:
        return [f"{name}_{fact}" for name, scorer in self.scores.items() for fact in scorer.facts]

    @property
    def numbers(self) -> list[str]:
        """The score columns that are numbers."""
        return [f.name for f in self.schema() if f.name in self.score_columns and not pa.types.is_string(f.type)]

    def schema(self) -> pa.Schema:
        scored = [
            scorer.columns.field(fact).with_name(f"{name}_{fact}")
            for name, scorer in self.scores.items()
            for fact in scorer.facts
        ]
        kinds = (("embedding", pa.binary()), ("length", pa.int32()))
        embedded = [pa.field(f"{name}_{column}", kind) for name in self.embeddings for column, kind in kinds]
        return pa.schema([*SAMPLE, *(pa.field(name, PICTURE) for name in self.copies), *scored, *embedded])

    @property
    def copies(self) -> dict[str, PictureSettings]:
        """The columns of smaller copies."""
        return {f"image_{settings.image_size}": settings for settings in self.sizes}

    @property
    def joined(self) -> dict[str, Any]:
        """What else a row's content follows from."""
        copies = {name: settings.model_dump(mode="json") for name, settings in self.copies.items()}
        texts = {name: one.text for name, one in self.embeddings.items() if one.text != "caption"}
        joined = {"embeddings": {name: one.table for name, one in self.embeddings.items()}, "copies": copies}
        return joined | ({"texts": texts} if texts else {})

    def plan(self, shard_rows: int) -> Publication:
        table = self.lake.table_or_make(self.table, self.schema())
        publication, still = Publication(table), self.lake.snapshot()
        same = self._same(table.record() if self.embeddings or self.sizes else {})
        for one in self.embeddings.values():
            shard_rows = min(shard_rows, max(1, EMBEDDED_BYTES // self.lake.table(one.table).bytes_a_row()))
        for bucket in self.lake.buckets:
            self._plan_bucket(publication, still, bucket, shard_rows, same)
        return publication

    @property
    def facts(self) -> list[str]:
        return ["sha256", *self.score_columns]

    def _same(self, before: Mapping[str, Any]) -> str:
        """SQL: whether a published row would be the same now. An encoder's vectors of a text never change, so it is
        enough that the rows with a text have some, and that the last version joined those of the same column from the
        same table; likewise with copies.
        """
        there, wanted = before.get("copies", {}), self.joined["copies"]
        if {name: there.get(name) for name in wanted} != wanted:
            return "false"
        same = [f"wanted.{fact} IS NOT DISTINCT FROM present.{fact}" for fact in self.facts]
        for name, (table, _, text) in self.embeddings.items():
            joined = before.get("embeddings", {}).get(name) == table
            joined &= before.get("texts", {}).get(name, "caption") == text
            same.append(f"(present.{name}_length IS NOT NULL OR wanted.{text} IS NULL)" if joined else "false")
        return " AND ".join(same)

    def _plan_bucket(self, publication: Publication, still: Lake, bucket: int, shard_rows: int, same: str) -> None:
        wanted = self.wanted(bucket, still)
        lengths = [f"{name}_length" for name in self.embeddings]
        present = publication.table.located(bucket, ["id", *self.facts, *lengths])
        compared = query(
            "SELECT coalesce(wanted.id, present.id) AS id, present.file AS file, "
            "CASE WHEN present.id IS NULL THEN 'added' "
            f"WHEN wanted.id IS NULL THEN 'removed' WHEN {same} THEN 'same' ELSE 'changed' END AS change "
            "FROM wanted FULL JOIN present ON wanted.id = present.id",
            wanted=wanted,
            present=present,
        )
        counts = query("SELECT change, count(*) AS n FROM compared GROUP BY change", compared=compared).to_pylist()
        count = {row["change"]: row["n"] for row in counts}
        publication.added += count.get("added", 0)
        publication.removed += count.get("removed", 0)
        publication.changed += count.get("changed", 0)
        publication.kept += wanted.num_rows
        sql = "SELECT DISTINCT file FROM compared WHERE change IN ('removed', 'changed')"
        stale = query(sql, compared=compared)
        publication.stale += stale["file"].to_pylist()
        rows = query(
            "SELECT wanted.* FROM wanted JOIN compared USING (id) "
            "WHERE change = 'added' OR compared.file IN (SELECT file FROM stale) ORDER BY id",
            wanted=wanted,
            compared=compared,
            stale=stale,
        )
        publication.shards += [Shard(bucket, rows.slice(at, shard_rows)) for at in range(0, rows.num_rows, shard_rows)]

    def wanted(self, bucket: int, lake: Lake | None = None) -> pa.Table:
        """Every kept pair of a bucket with all but its picture, and the file that holds it."""
        lake = lake or self.lake
        columns = "".join(f", {n}.{c} AS {n}_{c}" for n, scorer in self.scores.items() for c in scorer.facts)
        joins = "".join(f" LEFT JOIN {name} ON {name}.id = pairs.id" for name in self.scores)
        images = lake.table("images").located(bucket, ["id", "width", "height", "sha256"])
        return query(
            f"SELECT pairs.id AS id, url, caption, width, height, images.sha256{columns}, file FROM verdicts "
            f"JOIN pairs ON pairs.id = verdicts.id JOIN images ON images.id = verdicts.id{joins} WHERE kept",
            verdicts=lake.table(f"verdicts/{self.dataset}").dataset(bucket),
            pairs=lake.table("pairs").dataset(bucket),
            images=images,
            **{name: lake.table(scorer.table).dataset(bucket) for name, scorer in self.scores.items()},
        )

    def work(self, shard: Shard) -> Written:
        pictures = list(read_pictures(self.lake, shard.rows))
        columns = {name: shard.rows[name] for name in shard.rows.column_names if name != "file"}
        columns["image"] = _as_hugging_face_does(pictures)
        for name, settings in self.copies.items():
            columns[name] = _as_hugging_face_does(smaller(pictures, settings))
        vectors: dict[str, Any] = {}
        for name, (table, dtype, text) in self.embeddings.items():
            texts = texts_of(self.lake, table, shard.rows[text])
            columns |= {f"{name}_{column}": texts[column] for column in ("embedding", "length")}
            vectors[name] = {"dtype": dtype, "dim": dim_of(texts)}
        rows = pa.table(columns).select(self.schema().names)
        notes = note_of(self.schema()) | ({"imagen": json.dumps({"embeddings": vectors})} if vectors else {})
        rows = rows.cast(self.schema()).replace_schema_metadata(notes)
        return Written(rows.num_rows, {self.table: write_file(self.lake.table_url(self.table), shard.bucket, rows)})

    def commit(self, publication: Publication, written: list[Written], record: dict[str, Any]) -> int | None:
        """Make the version. Its number, or None if somebody else published since the plan."""
        files = [w.files[self.table] for w in written]
        counts = {name: getattr(publication, name) for name in ("kept", "added", "removed", "changed")}
        if publication.table.replace(files, publication.stale, {**counts, **self.joined, **record}):
            return publication.table.version
        return None


def _as_hugging_face_does(pictures: list[bytes]) -> pa.Array:
    paths = pa.nulls(len(pictures), pa.string())
    return pa.StructArray.from_arrays([pa.array(pictures, pa.binary()), paths], fields=list(PICTURE))
