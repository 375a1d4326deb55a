"""Embed every kept caption that an encoder has not read: `verdicts/<dataset>` and `pairs` → `embeddings/<encoder>`.

What a captioner wrote is read from its table instead of `pairs`. The table is keyed by the text, so one is encoded once
however many pairs and datasets carry it. Its bucket is that of the text's id, which is not its pairs': a plan goes
through all pairs once, and publishing looks texts up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data.encoders.encoder import Encoder
from data.engine.stage import Shard, ShardResult
from data.lake.lake import Lake
from data.lake.schemas import EMBEDDINGS, PAIRS, VERDICTS, text_id
from data.lake.shard_file import BINARY_ROW_GROUP, write_file
from data.lake.table import Table
from data.scorers.scorer import Describer

ROW_GROUP_BYTES = 1 << 18  # publishing reads one row here and one there, each with its whole group


@dataclass(frozen=True)
class Embed:
    """The stage."""

    lake: Lake
    dataset: str
    encoder: Encoder
    name: str
    of: Describer | None = None  # who wrote the texts; none: they are the pairs' captions
    ordered_commits: bool = False

    @property
    def table(self) -> str:
        return f"embeddings/{self.encoder.id}"

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make(self.table, EMBEDDINGS)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return dict(self.gather(lake, outputs))[bucket]

    def gather(self, lake: Lake, outputs: list[Table]) -> Iterator[tuple[int, pa.Table]]:
        """The kept texts of all pairs, once each, dealt to the buckets of their ids; DuckDB spills them to disk."""
        verdicts = lake.table_or_make(f"verdicts/{self.dataset}", VERDICTS)
        if self.of is None:
            texts, text = lake.table_or_make("pairs", PAIRS), "caption"
        else:
            texts, text = lake.table_or_make(self.of.table, self.of.schema), "text"
        with TemporaryDirectory() as folder, duckdb.connect(config={"temp_directory": folder}) as connection:
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("CREATE TABLE texts (id VARCHAR, caption VARCHAR, bucket INTEGER)")
            for bucket in lake.buckets:
                connection.register("verdicts", verdicts.dataset(bucket))
                connection.register("said", texts.dataset(bucket))
                connection.execute(
                    f"WITH kept AS (SELECT DISTINCT {text} AS caption FROM verdicts JOIN said USING (id) "
                    f"WHERE kept AND {text} IS NOT NULL), "
                    "named AS (SELECT left(sha256(caption), 32) AS id, caption FROM kept) INSERT INTO texts "
                    f"SELECT id, caption, (('0x' || left(id, 4))::INTEGER * {lake.config.buckets}) >> 16 FROM named"
                )
            for bucket in lake.buckets:
                connection.register("embedded", outputs[0].dataset(bucket))
                found = connection.sql(
                    f"WITH here AS (SELECT DISTINCT id, caption FROM texts WHERE bucket = {bucket}) "
                    "SELECT id, caption FROM here ANTI JOIN embedded USING (id) ORDER BY id"
                )
                yield bucket, found.to_arrow_table()

    def work(self, shard: Shard) -> ShardResult:
        said = self.encoder.encode(shard.rows["caption"].to_pylist())
        rows = pa.table({"id": shard.rows["id"], **said}).cast(EMBEDDINGS)
        group = max(1, min(BINARY_ROW_GROUP, ROW_GROUP_BYTES * rows.num_rows // rows.nbytes))
        file = write_file(self.lake.table_url(self.table), shard.bucket, rows, group)
        return ShardResult(rows.num_rows, {self.table: file})


def texts_of(lake: Lake, table: str, captions: pa.ChunkedArray) -> pa.Table:
    """Embedding and length of each caption, in their order; null where there is none, or none in the table yet."""
    ids = [None if caption is None else text_id(caption) for caption in captions.to_pylist()]
    found = lake.table(table).find_rows([id for id in ids if id is not None], ["id", "embedding", "length"])
    places = pc.index_in(pa.array(ids, pa.string()), found["id"].combine_chunks())
    return found.select(["embedding", "length"]).take(places)


def dim_of(texts: pa.Table) -> int | None:
    """The numbers of one vector, told by any text that has some."""
    some = texts.filter(pc.greater(texts["length"], 0)).slice(0, 1).to_pylist()
    return len(some[0]["embedding"]) // 2 // some[0]["length"] if some else None
