"""A probe fetches and scores a sample of the pending pairs, to estimate how many pairs a build would keep.

It works in a temporary lake. The lake itself is only read.
"""

import math
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from data.build.dry_run import DryRunSnapshot, preview_selection
from data.build.pipeline import make_pipeline
from data.build.recipe import Recipe
from data.engine.pool import Engine
from data.engine.stage import run_stage
from data.lake.append import split_by_bucket
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, bucket_of
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.sources.ingest import preview_ingest

Z_95 = 1.96  # standard deviations of a 95 % interval


@dataclass
class Share:
    """A named share of the pairs in a sample."""

    name: str
    found: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the share among all pairs (Wilson score interval)."""
        if not self.of:
            return 0.0, 1.0
        p, n, z2 = self.found / self.of, self.of, Z_95**2
        middle, half = p + z2 / (2 * n), Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


@dataclass
class Probe:
    """The outcome of a probe."""

    pairs: int  # number of pairs in the sample
    shares: list[Share]
    seconds: dict[str, float]  # stage → time that the stage took for the sample


def run_probe(lake: Lake, recipe: Recipe, share: float, engine: Engine) -> Probe:
    """Fetch and score a sample of the new and pending pairs in a temporary lake, which is deleted afterwards.

    Args:
        lake: the lake whose pairs to sample.
        recipe: the recipe whose sources, scores and criteria are used.
        share: the share of pairs in the sample, from 0 to 1. Pairs are drawn by id, so every call has the same sample.
        engine: runs the stages.
    """
    pairs = _draw_sample(lake, recipe, share)
    with tempfile.TemporaryDirectory() as folder:
        temporary_lake = Lake.make(f"{folder}/lake", lake.config.buckets, lake.config.hosts)
        return _build_sample(temporary_lake, recipe, pairs, engine)


def _draw_sample(lake: Lake, recipe: Recipe, share: float) -> pa.Table:
    """Draw the new and pending pairs whose id is below a limit. Ids are hashes, so they are uniformly distributed."""
    pipeline, now = make_pipeline(DryRunSnapshot(lake.url, lake.config), recipe), datetime.now(UTC)
    limit = f"{min(int(share * 16**8), 16**8 - 1):08x}"
    parts: list[pa.Table] = []

    def add_new(rows: pa.Table) -> None:
        rows = rows.filter(pc.less(rows["id"], limit))
        columns = {field.name: rows[field.name] for field in PAIRS if field.name in rows.column_names}
        columns["first_seen"] = pa.repeat(pa.scalar(now, PAIRS.field("first_seen").type), rows.num_rows)
        missing = {name: pa.nulls(rows.num_rows, pa.string()) for name in PAIRS.names if name not in columns}
        parts.append(pa.table({**columns, **missing}).select(PAIRS.names).cast(PAIRS))

    preview_ingest(lake, recipe.sources, add_new)
    pairs = lake.find("pairs")
    download = pipeline.stages[0]
    for bucket in lake.buckets if pairs else ():
        assert pairs is not None
        pending = download.pending(pipeline.lake, download.outputs(pipeline.lake), bucket)
        sql = f"SELECT pairs.* FROM pairs SEMI JOIN pending USING (id) WHERE id < '{limit}'"
        parts.append(query(sql, pairs=pairs.dataset(bucket), pending=pending).select(PAIRS.names).cast(PAIRS))
    sql = "SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY id) = 1"
    return query(sql, rows=pa.concat_tables(parts)).cast(PAIRS)


def _build_sample(lake: Lake, recipe: Recipe, pairs: pa.Table, engine: Engine) -> Probe:
    """Run the recipe's stages up to the selection on some pairs, in a lake that contains only these pairs."""
    table = lake.table_or_make("pairs", PAIRS)
    buckets = [bucket_of(id, lake.config.buckets) for id in pairs["id"].to_pylist()]
    parts = split_by_bucket(pairs, pa.array(buckets, pa.int64()).to_numpy())
    table.append([write_file(table.url, bucket, part) for bucket, part in parts])
    pipeline, seconds = make_pipeline(lake, recipe), {}
    for stage in pipeline.stages:
        start = time.monotonic()
        run_stage(lake, stage, engine, recipe.shard_rows)
        seconds[stage.name] = round(time.monotonic() - start, 2)
    kept = preview_selection(lake, pipeline.selection).kept
    pictures = lake.table("images").count_rows()
    shares = [
        Share("pictures that arrive", pictures, pairs.num_rows),
        Share("pairs that are kept", kept, pairs.num_rows),
    ]
    return Probe(pairs.num_rows, shares, seconds)
