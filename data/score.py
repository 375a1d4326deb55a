"""Ask a scorer about every picture that it has not seen: `images` and `pairs` → `scores/<scorer>`.

Scores are facts: a row is written once for each picture and scorer, null with an error where there is nothing to say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from data.lake import Lake
from data.pairs import IMAGES, PAIRS
from data.stage import Shard, Written, query
from data.table import Table, open_files, write_file

READ_AHEAD = 256  # rows a read: bounds the memory, not the result


class Scorer(Protocol):
    """A name with version and weights, the columns it says, and one method from a batch to columns."""

    columns: pa.Schema

    @property
    def id(self) -> str: ...

    def score(self, pictures: Iterator[bytes], captions: Sequence[str]) -> dict[str, list[Any]]: ...


@dataclass(frozen=True)
class Score:
    """The stage."""

    lake: Lake
    scorer: Scorer
    name: str

    @property
    def table(self) -> str:
        return f"scores/{self.scorer.id}"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([("id", pa.string()), *self.scorer.columns, ("error", pa.string())])

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(self.table, self.schema)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return query(
            "SELECT id, caption, file FROM images ANTI JOIN scores USING (id) JOIN pairs USING (id) ORDER BY id",
            images=lake.table_or_make("images", IMAGES).located(bucket, ["id"]),
            pairs=lake.table_or_make("pairs", PAIRS).dataset(bucket),
            scores=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> Written:
        ids = shard.rows["id"]
        said = self.scorer.score(read_pictures(self.lake, shard.rows), shard.rows["caption"].to_pylist())
        rows = pa.table({"id": ids, **said}).cast(self.schema)
        return Written(rows.num_rows, {self.table: write_file(self.lake.table_url(self.table), shard.bucket, rows)})


def read_pictures(lake: Lake, rows: pa.Table) -> Iterator[bytes]:
    """The pictures of rows with id and file, in the order of the rows, which is that of their ids."""
    url = lake.table_url("images")
    for at in range(0, rows.num_rows, READ_AHEAD):
        part = rows.slice(at, READ_AHEAD)
        files = open_files(url, pc.unique(part["file"]).to_pylist(), IMAGES)
        found = files.to_table(columns=["id", "image"], filter=pc.field("id").isin(part["id"].combine_chunks()))
        yield from (picture.as_py() for picture in found.sort_by("id")["image"])
