"""The stage that computes text embeddings of the kept captions.

It reads `verdicts/<dataset>` and `pairs`, and writes `embeddings/<encoder>`. If a describer (a scorer that writes
texts about pictures) is set, its texts are embedded instead of the captions. The output table is keyed by the text, so
a text is encoded once, no matter how many pairs and datasets have it. A row's bucket is given by the text's id, not by
a pair's id. So planning reads all pairs once, and publishing looks up the texts.
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

ROW_GROUP_BYTES = 1 << 18  # small: publishing reads single rows, each with its whole row group


@dataclass(frozen=True)
class Embed:
    """The stage that encodes the texts of a dataset's kept pairs.

    Attributes:
        dataset: the dataset's name.
        describer: the scorer whose texts are embedded; by default the captions of the pairs are embedded.
    """

    lake: Lake
    dataset: str
    encoder: Encoder
    name: str
    describer: Describer | None = None
    ordered_commits: bool = False

    @property
    def table(self) -> str:
        """The name of the encoder's table."""
        return f"embeddings/{self.encoder.id}"

    def outputs(self, lake: Lake) -> list[Table]:
        """The encoder's table."""
        return [lake.table_or_make(self.table, EMBEDDINGS)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return one bucket's texts that have no embedding. Reads all pairs, so use `gather` for several buckets."""
        return dict(self.gather(lake, outputs))[bucket]

    def gather(self, lake: Lake, outputs: list[Table]) -> Iterator[tuple[int, pa.Table]]:
        """Yield each bucket with its kept texts that have no embedding. Each text occurs once.

        All pairs are read once. Memory is bounded, because DuckDB spills the texts to disk.
        """
        verdicts = lake.table_or_make(f"verdicts/{self.dataset}", VERDICTS)
        if self.describer is None:
            texts, text = lake.table_or_make("pairs", PAIRS), "caption"
        else:
            texts, text = lake.table_or_make(self.describer.table, self.describer.schema), "text"
        with TemporaryDirectory() as folder, duckdb.connect(config={"temp_directory": folder}) as connection:
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("CREATE TABLE texts (id VARCHAR, caption VARCHAR, bucket INTEGER)")
            for bucket in lake.buckets:
                connection.register("verdicts", verdicts.dataset(bucket))
                connection.register("sources", texts.dataset(bucket))
                connection.execute(
                    f"WITH kept AS (SELECT DISTINCT {text} AS caption FROM verdicts JOIN sources USING (id) "
                    f"WHERE kept AND {text} IS NOT NULL), "
                    "with_id AS (SELECT left(sha256(caption), 32) AS id, caption FROM kept) INSERT INTO texts "
                    f"SELECT id, caption, (('0x' || left(id, 4))::INTEGER * {lake.config.buckets}) >> 16 FROM with_id"
                )
            for bucket in lake.buckets:
                connection.register("embedded", outputs[0].dataset(bucket))
                pending = connection.sql(
                    f"WITH in_bucket AS (SELECT DISTINCT id, caption FROM texts WHERE bucket = {bucket}) "
                    "SELECT id, caption FROM in_bucket ANTI JOIN embedded USING (id) ORDER BY id"
                )
                yield bucket, pending.to_arrow_table()

    def work(self, shard: Shard) -> ShardResult:
        """Encode a shard's texts."""
        columns = self.encoder.encode(shard.rows["caption"].to_pylist())
        rows = pa.table({"id": shard.rows["id"], **columns}).cast(EMBEDDINGS)
        group_rows = max(1, min(BINARY_ROW_GROUP, ROW_GROUP_BYTES * rows.num_rows // rows.nbytes))
        file = write_file(self.lake.table_url(self.table), shard.bucket, rows, group_rows)
        return ShardResult(rows.num_rows, {self.table: file})


def read_embeddings(lake: Lake, table: str, captions: pa.ChunkedArray) -> pa.Table:
    """Read the stored embeddings of some captions.

    Args:
        lake: the lake.
        table: the encoder's table, `embeddings/<encoder>`.
        captions: texts or nulls.

    Returns:
        `embedding` and `length` for each caption, in the order of `captions`. Both are null for a null caption, and for
        a text without an embedding.
    """
    ids = [None if caption is None else text_id(caption) for caption in captions.to_pylist()]
    embeddings = lake.table(table).find_rows([id for id in ids if id is not None], ["id", "embedding", "length"])
    indices = pc.index_in(pa.array(ids, pa.string()), embeddings["id"].combine_chunks())
    return embeddings.select(["embedding", "length"]).take(indices)


def vector_size(embeddings: pa.Table) -> int | None:
    """Return the number of dimensions of the vectors in some embeddings, or None if no embedding has a vector."""
    rows = embeddings.filter(pc.greater(embeddings["length"], 0)).slice(0, 1).to_pylist()
    return len(rows[0]["embedding"]) // 2 // rows[0]["length"] if rows else None
