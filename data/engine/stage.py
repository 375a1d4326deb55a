"""Plan, map, commit: the three steps of every stage of the data pipeline.

A plan is an anti-join: it finds the rows that are in the stage's inputs and not in its outputs. The plan splits these
rows into shards, each with rows of one bucket. Workers turn shards into files, and the caller commits the files. A
first build, an incremental build, a backfill and the resumption after a crash all consist of just these steps.
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

PLAN_ROWS = 2_000_000  # rows in one plan, about a gigabyte; the plan's last bucket may exceed it


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work of a stage: pending rows of one bucket."""

    bucket: int
    rows: pa.Table

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the rows as an Arrow stream, because a pickled slice would contain the whole table."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.rows.schema) as stream:
            stream.write_table(self.rows)
        return _load_shard, (self.bucket, sink.getvalue().to_pybytes())

    def __str__(self) -> str:
        return f"a shard of {self.rows.num_rows} rows in bucket {self.bucket}"


def _load_shard(bucket: int, stream: bytes) -> Shard:
    return Shard(bucket, pa.ipc.open_stream(stream).read_all())


@dataclass(frozen=True, slots=True)
class ShardResult:
    """The result of a shard: the files that a worker wrote.

    Attributes:
        rows: The number of rows in the shard.
        files: The file that was written in the shard's bucket, keyed by the table's name.
        files_in_other_buckets: The files that were written in other buckets, keyed by the table's name.
    """

    rows: int
    files: dict[str, ShardFile]
    files_in_other_buckets: dict[str, list[ShardFile]] = field(default_factory=dict)

    def files_in(self, table: str) -> list[ShardFile]:
        """Return all files that were written for a table."""
        return [*([self.files[table]] if table in self.files else []), *self.files_in_other_buckets.get(table, [])]


class Stage(Protocol):
    """A step of the pipeline. It is sent to the workers, so it contains only settings and never data."""

    @property
    def name(self) -> str:
        """The stage's name in progress bars, logs and run names."""

    @property
    def ordered_commits(self) -> bool:
        """Whether rows of an output table refer to rows of an earlier output table.

        If so, a shard whose rows could not be committed to one table is not committed to the tables after it.
        """

    def outputs(self, lake: Lake) -> list[Table]:
        """Return the tables that the stage appends to, in the order of commits. Tables that do not exist are made."""

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the rows of a bucket that are not done yet, with the columns that a worker needs."""

    def work(self, shard: Shard) -> ShardResult:
        """Process a shard and write its files. Runs in a worker."""


@runtime_checkable
class GatheringStage(Protocol):
    """A stage whose output rows are in other buckets than its inputs. One pass over the inputs plans all buckets."""

    def gather(self, lake: Lake, outputs: list[Table]) -> Iterator[tuple[int, pa.Table]]:
        """Yield each bucket with its pending rows."""


@dataclass
class Plan:
    """Pending rows of a stage, split into shards. For a large lake, a plan covers only some buckets to bound memory.

    Attributes:
        start: The first bucket that the plan covers.
        next_bucket: The bucket at which the next plan starts; None if this plan covers all buckets from `start` on.
        last_commit: The time of the last commit, or of making the plan if there was no commit yet.
    """

    stage: Stage
    outputs: list[Table]
    shards: list[Shard]
    start: int = 0
    next_bucket: int | None = None
    last_commit: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        """The number of planned rows."""
        return sum(shard.rows.num_rows for shard in self.shards)

    def commit(self, results: Sequence[ShardResult]) -> int:
        """Commit the files of shards, with one commit per table.

        Returns:
            The number of shards that could not be committed because another process committed some of their rows first.
        """
        lost, now = 0, time.monotonic()
        pace = {"rows": sum(result.rows for result in results), "seconds": round(now - self.last_commit, 3)}
        self.last_commit = now
        ordered = self.stage.ordered_commits
        for position, table in enumerate(self.outputs):
            files = [file for result in results for file in result.files_in(table.name)]
            landed = {file.path for file in table.append(files, pace)} if files else set()
            complete = [
                result for result in results if landed.issuperset(file.path for file in result.files_in(table.name))
            ]
            leading = ordered and position < len(self.outputs) - 1
            if leading or not ordered:
                lost += len(results) - len(complete)
            if leading:
                results = complete
        return lost


def make_plan(lake: Lake, stage: Stage, shard_rows: int, only: int | None = None, start: int = 0) -> Plan:
    """Plan the pending rows of a stage.

    Args:
        shard_rows: The most rows of a shard.
        only: The only bucket to plan; by default buckets from `start` on, until there are PLAN_ROWS rows.
    """
    outputs, snapshot = stage.outputs(lake), lake.snapshot()
    plan = Plan(stage, outputs, [], start)
    if isinstance(stage, GatheringStage):
        for bucket, rows in stage.gather(snapshot, outputs):
            if only in (None, bucket):
                plan.shards += _split(bucket, rows, shard_rows)
        return plan
    planned = 0
    for bucket in lake.buckets[start:] if only is None else [only]:
        if planned >= PLAN_ROWS:
            plan.next_bucket = bucket
            break
        rows = stage.pending(snapshot, outputs, bucket)
        plan.shards += _split(bucket, rows, shard_rows)
        planned += rows.num_rows
    return plan


def _split(bucket: int, rows: pa.Table, size: int) -> list[Shard]:
    return [Shard(bucket, rows.slice(start, size)) for start in range(0, rows.num_rows, size)]


def run_stage(
    lake: Lake,
    stage: Stage,
    engine: Engine,
    shard_rows: int,
    batch: int = 8,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda result: None,
) -> int:
    """Run a stage without Prefect: plan, map, commit, until nothing is pending.

    Args:
        shard_rows: The most rows of a shard.
        batch: The number of shards that are committed together.
        on_plan: Called with each plan.
        on_shard: Called with each finished shard, before it is committed.

    Returns:
        The number of rows done.
    """
    rows = start = 0
    while True:
        plan = make_plan(lake, stage, shard_rows, start=start)
        on_plan(plan)
        lost = 0
        for results in _batches(engine.map(stage.work, plan.shards), batch, on_shard):
            lost += plan.commit(results)
            rows += sum(result.rows for result in results)
        if not lost:
            if plan.next_bucket is None:
                return rows
            start = plan.next_bucket


def _batches(
    results: Iterable[ShardResult], size: int, on_shard: Callable[[ShardResult], None]
) -> Iterator[list[ShardResult]]:
    batch: list[ShardResult] = []
    for result in results:
        on_shard(result)
        batch.append(result)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
