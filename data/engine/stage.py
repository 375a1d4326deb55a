"""Plan, map, commit: the three steps that every stage of the data way is made of.

A plan is an anti-join: what the stage's inputs hold and its output lacks, cut into shards of one bucket each. Workers
turn shards into files. The caller commits the files. First build, increment, crash-resume and backfill are this alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.ipc

from data.engine.pool import Engine
from data.lake.lake import Lake
from data.lake.shard_file import ShardFile
from data.lake.table import Table

PLAN_ROWS = 2_000_000  # that a plan holds, give or take a bucket: a gigabyte or so


@dataclass(frozen=True, slots=True)
class Shard:
    """A stage's unit of work: pending rows of one bucket."""

    bucket: int
    rows: pa.Table

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as Arrow's stream: a pickled slice would carry the whole plan with it."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.schema) as stream:
            stream.write_table(self.rows)
        return _shard_from, (self.bucket, sink.getvalue().to_pybytes())

    def __str__(self) -> str:
        return f"a shard of {self.rows.num_rows} rows in bucket {self.bucket}"


def _shard_from(bucket: int, stream: bytes) -> Shard:
    return Shard(bucket, pa.ipc.open_stream(stream).read_all())


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What became of one shard: for each table the file that the worker wrote there, and those for other buckets."""

    rows: int
    files: dict[str, ShardFile]
    files_in_other_buckets: dict[str, list[ShardFile]] = field(default_factory=dict)

    def files_in(self, table: str) -> list[ShardFile]:
        return [*([self.files[table]] if table in self.files else []), *self.files_in_other_buckets.get(table, [])]


class Stage(Protocol):
    """One step of the way. Small enough to be sent to a worker; holds settings, never data."""

    @property
    def name(self) -> str: ...

    @property
    def ordered_commits(self) -> bool:
        """Whether each output tells of those before it: without their rows it would tell a tale."""

    def outputs(self, lake: Lake) -> list[Table]:
        """The tables it appends to, in the order of committing; made if they were not there."""

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """The rows of a bucket that are still to do, with whatever a worker needs to do them."""

    def work(self, shard: Shard) -> ShardResult:
        """Do a shard, in a worker."""


@runtime_checkable
class GatheringStage(Protocol):
    """A stage whose rows lie in other buckets than what it reads: it looks through that once, for every bucket."""

    def gather(self, lake: Lake, outputs: list[Table]) -> Iterator[tuple[int, pa.Table]]:
        """What is pending, bucket after bucket."""


@dataclass
class Plan:
    """Of very many rows those of some buckets: what is held at once does not grow with the lake."""

    stage: Stage
    outputs: list[Table]
    shards: list[Shard]
    start: int = 0  # the first bucket it looked at
    next_bucket: int | None = None  # the bucket to go on with, where there may be more
    last_commit: float = field(default_factory=time.monotonic)  # the last commit, or the beginning

    @property
    def rows(self) -> int:
        return sum(shard.rows.num_rows for shard in self.shards)

    def commit(self, written: Sequence[ShardResult]) -> int:
        """Add the files of many shards, one commit a table. Returns how many were lost to somebody who was faster."""
        lost, now = 0, time.monotonic()
        pace = {"rows": sum(w.rows for w in written), "seconds": round(now - self.last_commit, 3)}
        self.last_commit = now
        for place, table in enumerate(self.outputs):
            files = [file for one in written for file in one.files_in(table.name)]
            landed = {file.path for file in table.append(files, pace)} if files else set()
            kept = [one for one in written if landed.issuperset(file.path for file in one.files_in(table.name))]
            leading = self.stage.ordered_commits and place < len(self.outputs) - 1
            lost += len(written) - len(kept) if leading or not self.stage.ordered_commits else 0
            written = kept if leading else written
        return lost


def make_plan(lake: Lake, stage: Stage, shard_rows: int, only: int | None = None, start: int = 0) -> Plan:
    """What is pending, in one bucket only or in all from `start` until there are enough rows for a plan."""
    outputs, still = stage.outputs(lake), lake.snapshot()
    plan = Plan(stage, outputs, [], start)
    if isinstance(stage, GatheringStage):
        for bucket, rows in stage.gather(still, outputs):
            if only in (None, bucket):
                plan.shards += _cut(bucket, rows, shard_rows)
        return plan
    planned = 0
    for bucket in lake.buckets[start:] if only is None else [only]:
        if planned >= PLAN_ROWS:
            plan.next_bucket = bucket
            break
        rows = stage.pending(still, outputs, bucket)
        plan.shards += _cut(bucket, rows, shard_rows)
        planned += rows.num_rows
    return plan


def _cut(bucket: int, rows: pa.Table, size: int) -> list[Shard]:
    return [Shard(bucket, rows.slice(at, size)) for at in range(0, rows.num_rows, size)]


def run_stage(
    lake: Lake,
    stage: Stage,
    engine: Engine,
    shard_rows: int,
    batch: int = 8,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda written: None,
) -> int:
    """A stage without Prefect: plan, map, commit, until nothing is pending. Returns the rows done."""
    rows = start = 0
    while True:
        plan = make_plan(lake, stage, shard_rows, start=start)
        on_plan(plan)
        lost = 0
        for done in _groups(engine.map(stage.work, plan.shards), batch, on_shard):
            lost += plan.commit(done)
            rows += sum(written.rows for written in done)
        if not lost:
            if plan.next_bucket is None:
                return rows
            start = plan.next_bucket


def _groups(
    results: Iterable[ShardResult], size: int, on_shard: Callable[[ShardResult], None]
) -> Iterator[list[ShardResult]]:
    group: list[ShardResult] = []
    for written in results:
        on_shard(written)
        group.append(written)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
