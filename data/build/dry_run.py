"""What a build would do, without doing it: pending rows of each stage, bytes and time, and what it would keep.

Nothing is written to the lake. Time comes from the pace of past commits, which each table's log keeps. A probe fetches
and scores a sample of what is pending in a lake of its own, and says what part of it would be kept.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from data.build.pipeline import pipeline_of
from data.build.recipe import Recipe
from data.engine.pool import Engine
from data.engine.stage import Stage, make_plan, run_stage
from data.lake.append import split_by_bucket
from data.lake.lake import Lake, ReadOnlySnapshot
from data.lake.schemas import PAIRS, bucket_of
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import Table
from data.scorers.stages import ScoreCaptions
from data.select.judgement import Judgement
from data.select.selection import Selection
from data.sources.ingest import preview_ingest

WHOLE = 1 << 62  # rows of a shard, where none is done
PACE_OF = 50  # commits by which a stage's pace is told
SAMPLES = 5  # captions of rows in and out
SURE = 1.96  # standard deviations: intervals hold in 95 of 100 cases


@dataclass
class Step:
    """One stage: what is pending now, and what it will get from those before it, at most."""

    name: str
    pending: int
    expected: int
    seconds: float | None = None  # None: it has never run here


@dataclass
class Change:
    """What selecting would change in the newest version."""

    kept: int = 0
    before: int = 0
    into: int = 0
    out: int = 0
    samples_in: list[str] = field(default_factory=list)
    samples_out: list[str] = field(default_factory=list)


@dataclass
class Share:
    """A part of a sample, and the interval in which that part of the whole lies."""

    name: str
    found: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's."""
        if not self.of:
            return 0.0, 1.0
        p, n, z2 = self.found / self.of, self.of, SURE**2
        middle, half = p + z2 / (2 * n), SURE * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n))


@dataclass
class Probe:
    """What came of a sample of the pending pairs."""

    pairs: int
    shares: list[Share]
    seconds: dict[str, float]  # of each stage on the sample


@dataclass
class BuildPlan:
    new_files: int
    new_pairs: int
    steps: list[Step]
    bytes: int | None  # that the pictures to come will take; None if there are none yet to tell by
    change: Change  # by what is scored already

    @property
    def pending(self) -> int:
        return self.new_pairs + sum(step.pending for step in self.steps)


class Snapshot(ReadOnlySnapshot):
    """A lake that is only looked at: a table that is not there is empty, and is not made."""

    def table_or_make(self, name: str, schema: pa.Schema, key: Sequence[str] = ("id",)) -> Table:
        found = self.find(name, key=key)
        if found is None:
            return EmptyTable(name, schema)  # type: ignore[return-value]
        found.extra_columns = schema
        return found


class EmptyTable:
    """Stands where a table will be."""

    version = -1

    def __init__(self, name: str, schema: pa.Schema) -> None:
        self.name, self._schema = name, schema

    def dataset(self, bucket: int | None = None) -> pads.Dataset:
        return pads.dataset(self._schema.empty_table())

    def read_with_files(self, bucket: int, columns: Sequence[str]) -> pa.Table:
        found = self._schema.empty_table().select(columns)
        return found.append_column("file", pa.array([], pa.string()))

    def last_record(self) -> dict[str, Any]:
        return {}


def plan(lake: Lake, recipe: Recipe) -> BuildPlan:
    glimpse = Snapshot(lake.url, lake.config)
    ways, found = pipeline_of(glimpse, recipe), preview_ingest(glimpse, recipe.sources)
    arrive = _arrival(glimpse)
    steps, pictures = [], 0
    for stage in (*ways.stages, *ways.later):
        pending = _pending(glimpse, stage)
        if stage.name == "download":
            expected = pending + found.new
            pictures = round(expected * arrive)
        else:
            expected = pending + (found.new if isinstance(stage, ScoreCaptions) else pictures)
        steps.append(Step(stage.name, pending, expected, _seconds(glimpse, stage, expected)))
    size = _size_of_pictures(glimpse)
    bytes = None if size is None else round(pictures * size)
    return BuildPlan(found.files, found.new, steps, bytes, what_if(glimpse, ways.selection))


def pending_rows(lake: Lake, recipe: Recipe) -> dict[str, int]:
    """What each stage has still to do, of what there is by now."""
    glimpse = Snapshot(lake.url, lake.config)
    ways = pipeline_of(glimpse, recipe)
    return {stage.name: _pending(glimpse, stage) for stage in (*ways.stages, *ways.later)}


def what_if(lake: Lake, selection: Selection) -> Change:
    """What a build would change in the newest version if nothing but the criteria were new."""
    glimpse = Snapshot(lake.url, lake.config)
    inputs = selection.inputs(glimpse)
    verdicts, dataset = glimpse.find(selection.table), glimpse.find(f"datasets/{selection.dataset}")
    cuts = verdicts.last_record().get("cuts", {}) if verdicts else {}
    change = Change()
    with Judgement(lake.buckets, selection, inputs, cuts) as judgement:
        for bucket in lake.buckets:
            kept = query("SELECT id FROM judged WHERE kept", judged=judgement.verdicts(bucket))
            there = dataset.dataset(bucket) if dataset else pads.dataset(pa.table({"id": pa.array([], pa.string())}))
            into = query("SELECT id FROM kept ANTI JOIN there USING (id)", kept=kept, there=there)
            out = query("SELECT id FROM there ANTI JOIN kept USING (id)", kept=kept, there=there)
            change.kept += kept.num_rows
            change.before += there.count_rows()
            change.into += into.num_rows
            change.out += out.num_rows
            for samples, moving in ((change.samples_in, into), (change.samples_out, out)):
                samples += _captions(inputs["pairs"].dataset(bucket), moving, SAMPLES - len(samples))
    return change


def probe(lake: Lake, recipe: Recipe, share: float, engine: Engine) -> Probe:
    """Fetch and score a share of the pending and new pairs, drawn by id, in a lake of its own that is then removed."""
    ways, now = pipeline_of(Snapshot(lake.url, lake.config), recipe), datetime.now(UTC)
    most = f"{min(int(share * 16**8), 16**8 - 1):08x}"  # ids are uniform
    drawn: list[pa.Table] = []

    def draw(rows: pa.Table) -> None:
        rows = rows.filter(pc.less(rows["id"], most))
        columns = {field.name: rows[field.name] for field in PAIRS if field.name in rows.column_names}
        columns["first_seen"] = pa.repeat(pa.scalar(now, PAIRS.field("first_seen").type), rows.num_rows)
        missing = {name: pa.nulls(rows.num_rows, pa.string()) for name in PAIRS.names if name not in columns}
        drawn.append(pa.table({**columns, **missing}).select(PAIRS.names).cast(PAIRS))

    with tempfile.TemporaryDirectory() as folder:
        aside = Lake.make(f"{folder}/lake", lake.config.buckets, lake.config.hosts)
        preview_ingest(lake, recipe.sources, draw)
        pairs = lake.find("pairs")
        for bucket in lake.buckets if pairs else ():
            assert pairs is not None
            pending = ways.stages[0].pending(ways.lake, ways.stages[0].outputs(ways.lake), bucket)
            sql = f"SELECT pairs.* FROM pairs SEMI JOIN pending USING (id) WHERE id < '{most}'"
            drawn.append(query(sql, pairs=pairs.dataset(bucket), pending=pending).select(PAIRS.names).cast(PAIRS))
        rows = query("SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY id) = 1", rows=pa.concat_tables(drawn))
        return _probed(aside, recipe, rows.cast(PAIRS), engine)


def _probed(aside: Lake, recipe: Recipe, rows: pa.Table, engine: Engine) -> Probe:
    table = aside.table_or_make("pairs", PAIRS)
    of = [bucket_of(id, aside.config.buckets) for id in rows["id"].to_pylist()]
    files = [
        write_file(table.url, bucket, part)
        for bucket, part in split_by_bucket(rows, pa.array(of, pa.int64()).to_numpy())
    ]
    table.append(files)
    ways, seconds = pipeline_of(aside, recipe), {}
    for stage in ways.stages:
        began = time.monotonic()
        run_stage(aside, stage, engine, recipe.shard_rows)
        seconds[stage.name] = round(time.monotonic() - began, 2)
    kept = what_if(aside, ways.selection).kept
    pictures = aside.table("images").count_rows()
    shares = [Share("pictures that arrive", pictures, rows.num_rows), Share("pairs that are kept", kept, rows.num_rows)]
    return Probe(rows.num_rows, shares, seconds)


def _pending(lake: Lake, stage: Stage) -> int:
    rows, start = 0, 0
    while True:
        found = make_plan(lake, stage, WHOLE, start=start)
        rows += found.rows
        if found.next_bucket is None:
            return rows
        start = found.next_bucket


def _arrival(lake: Lake) -> float:
    """What part of the pairs that were asked for have a picture; all, if none was asked for yet."""
    images, fetches = lake.find("images"), lake.find("fetches")
    if images is None or fetches is None or not fetches.count_rows():
        return 1.0
    asked = query("SELECT count(DISTINCT id) AS n FROM fetches", fetches=fetches.dataset())["n"][0].as_py()
    return float(images.count_rows() / asked)


def _size_of_pictures(lake: Lake) -> float | None:
    images = lake.find("images")
    if images is None or not images.count_rows():
        return None
    return sum(images.file_sizes().values()) / images.count_rows()


def _seconds(lake: Lake, stage: Stage, rows: int) -> float | None:
    """How long so many rows take, by the pace of the stage's last commits."""
    table = lake.find(stage.outputs(lake)[-1].name)
    told = [record for _, _, record in table.records(PACE_OF) if "seconds" in record] if table else []
    done = sum(record["rows"] for record in told)
    return round(rows * sum(record["seconds"] for record in told) / done, 1) if done else 0.0 if not rows else None


def _captions(pairs: pads.Dataset, ids: pa.Table, count: int) -> list[str]:
    if count <= 0 or not ids.num_rows:
        return []
    found = query(f"SELECT caption FROM pairs SEMI JOIN ids USING (id) ORDER BY id LIMIT {count}", pairs=pairs, ids=ids)
    return [str(caption) for caption in found["caption"].to_pylist()]
