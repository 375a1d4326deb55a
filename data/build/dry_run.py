"""Predicts the work and result of a build: pending rows of each stage, bytes, time, and the rows that would be kept.

Nothing is written to the lake. Times are estimated from the pace of past commits, which each table's log records.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data.build.pipeline import make_pipeline
from data.build.recipe import Recipe
from data.engine.stage import Stage, make_plan
from data.lake.lake import Lake, ReadOnlySnapshot
from data.lake.sql import query
from data.lake.table import Table
from data.scorers.stages import ScoreCaptions
from data.select.judgement import Judgement
from data.select.selection import Selection
from data.sources.ingest import preview_ingest

ONE_SHARD = 1 << 62  # rows of a shard, for plans that are only counted
PACE_COMMITS = 50  # past commits from which a stage's pace is computed
CAPTIONS = 5  # captions that are shown of added rows, and of removed rows


@dataclass
class Step:
    """The work of one stage."""

    name: str
    pending: int  # rows that the stage could process now
    expected: int  # the same, with the most rows that it can get from the stages before it
    seconds: float | None = None  # estimate for `expected`; None if the stage has never run in this lake


@dataclass
class Change:
    """The difference between a selection and the current version of its dataset."""

    kept: int = 0  # rows that the selection would keep
    before: int = 0  # rows in the current version
    into: int = 0  # rows that would be added
    out: int = 0  # rows that would be removed
    samples_in: list[str] = field(default_factory=list)  # captions of some rows that would be added
    samples_out: list[str] = field(default_factory=list)


@dataclass
class BuildPlan:
    """The work that a build would do, and its estimated result."""

    new_files: int
    new_pairs: int
    steps: list[Step]
    bytes: int | None  # estimated size of the pictures to fetch; None if the lake has no picture to estimate from
    change: Change  # computed from the pairs that are fetched and scored already

    @property
    def pending(self) -> int:
        """The number of rows to ingest or process; 0 if a build would have nothing to do before selection."""
        return self.new_pairs + sum(step.pending for step in self.steps)


class DryRunSnapshot(ReadOnlySnapshot):
    """A snapshot of a lake in which a missing table is read as empty instead of being made."""

    def table_or_make(self, name: str, schema: pa.Schema, key: Sequence[str] = ("id",)) -> Table:
        """Open the table, or return an empty one if it is missing. Columns that an old table lacks are read as null."""
        table = self.find(name, key=key)
        if table is None:
            return EmptyTable(name, schema)  # type: ignore[return-value]
        table.extra_columns = schema
        return table


class EmptyTable:
    """Replaces a table that a build would make. It has those reading methods of `Table` that plans use."""

    version = -1

    def __init__(self, name: str, schema: pa.Schema) -> None:
        self.name, self._schema = name, schema

    def dataset(self, bucket: int | None = None) -> pads.Dataset:
        return pads.dataset(self._schema.empty_table())

    def read_with_files(self, bucket: int, columns: Sequence[str]) -> pa.Table:
        rows = self._schema.empty_table().select(columns)
        return rows.append_column("file", pa.array([], pa.string()))

    def last_record(self) -> dict[str, Any]:
        return {}


def plan_build(lake: Lake, recipe: Recipe) -> BuildPlan:
    """Predict what a build of a recipe would do now.

    Raises:
        SourceError: a source can't be read.
    """
    snapshot = DryRunSnapshot(lake.url, lake.config)
    pipeline, ingest = make_pipeline(snapshot, recipe), preview_ingest(snapshot, recipe.sources)
    share_fetched = _share_fetched(snapshot)
    steps, pictures = [], 0
    for stage in (*pipeline.stages, *pipeline.stages_after_selection):
        pending = _count_pending(snapshot, stage)
        if stage.name == "download":
            expected = pending + ingest.new
            pictures = round(expected * share_fetched)
        else:
            expected = pending + (ingest.new if isinstance(stage, ScoreCaptions) else pictures)
        steps.append(Step(stage.name, pending, expected, _estimate_seconds(snapshot, stage, expected)))
    picture_bytes = _mean_picture_bytes(snapshot)
    total_bytes = None if picture_bytes is None else round(pictures * picture_bytes)
    return BuildPlan(ingest.files, ingest.new, steps, total_bytes, preview_selection(snapshot, pipeline.selection))


def pending_rows(lake: Lake, recipe: Recipe) -> dict[str, int]:
    """Return the number of rows that each stage could process now."""
    snapshot = DryRunSnapshot(lake.url, lake.config)
    pipeline = make_pipeline(snapshot, recipe)
    stages = (*pipeline.stages, *pipeline.stages_after_selection)
    return {stage.name: _count_pending(snapshot, stage) for stage in stages}


def preview_selection(lake: Lake, selection: Selection) -> Change:
    """Compare a selection over the present pictures and scores with the current version of its dataset."""
    snapshot = DryRunSnapshot(lake.url, lake.config)
    inputs = selection.inputs(snapshot)
    verdicts, dataset = snapshot.find(selection.table), snapshot.find(f"datasets/{selection.dataset}")
    cuts = verdicts.last_record().get("cuts", {}) if verdicts else {}
    nothing = pads.dataset(pa.table({"id": pa.array([], pa.string())}))
    change = Change()
    with Judgement(lake.buckets, selection, inputs, cuts) as judgement:
        for bucket in lake.buckets:
            kept = query("SELECT id FROM judged WHERE kept", judged=judgement.verdicts(bucket))
            published = dataset.dataset(bucket) if dataset else nothing
            into = query("SELECT id FROM kept ANTI JOIN published USING (id)", kept=kept, published=published)
            out = query("SELECT id FROM published ANTI JOIN kept USING (id)", kept=kept, published=published)
            change.kept += kept.num_rows
            change.before += published.count_rows()
            change.into += into.num_rows
            change.out += out.num_rows
            pairs = inputs["pairs"].dataset(bucket)
            change.samples_in += _read_captions(pairs, into, CAPTIONS - len(change.samples_in))
            change.samples_out += _read_captions(pairs, out, CAPTIONS - len(change.samples_out))
    return change


def _count_pending(lake: Lake, stage: Stage) -> int:
    rows, start = 0, 0
    while True:
        plan = make_plan(lake, stage, ONE_SHARD, start=start)
        rows += plan.rows
        if plan.next_bucket is None:
            return rows
        start = plan.next_bucket


def _share_fetched(lake: Lake) -> float:
    """Return the share of pairs with a picture among the pairs with a fetch attempt. 1 if there was no attempt yet."""
    images, fetches = lake.find("images"), lake.find("fetches")
    if images is None or fetches is None or not fetches.count_rows():
        return 1.0
    attempted = query("SELECT count(DISTINCT id) AS n FROM fetches", fetches=fetches.dataset())["n"][0].as_py()
    return float(images.count_rows() / attempted)


def _mean_picture_bytes(lake: Lake) -> float | None:
    images = lake.find("images")
    if images is None or not images.count_rows():
        return None
    return sum(images.file_sizes().values()) / images.count_rows()


def _estimate_seconds(lake: Lake, stage: Stage, rows: int) -> float | None:
    """Estimate the time for some rows from the pace of the stage's last commits.

    None if there are rows but no commit to estimate from.
    """
    if not rows:
        return 0.0
    table = lake.find(stage.outputs(lake)[-1].name)
    records = [record for _, _, record in table.records(PACE_COMMITS)] if table else []
    timed = [record for record in records if "seconds" in record]
    timed_rows = sum(record["rows"] for record in timed)
    if not timed_rows:
        return None
    return round(rows * sum(record["seconds"] for record in timed) / timed_rows, 1)


def _read_captions(pairs: pads.Dataset, ids: pa.Table, count: int) -> list[str]:
    if count <= 0 or not ids.num_rows:
        return []
    rows = query(f"SELECT caption FROM pairs SEMI JOIN ids USING (id) ORDER BY id LIMIT {count}", pairs=pairs, ids=ids)
    return [str(caption) for caption in rows["caption"].to_pylist()]
