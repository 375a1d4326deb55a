"""A stage of very many shards, each of a row that costs nothing, as a tracked run: what server and log make of it.

With 2,000 shards here; `python -m tests.bench.shards 100000 FOLDER` for as many as you like.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads

from data.engine import LocalEngine
from data.lake import Lake
from data.stage import Shard, Written, query
from data.table import Table, write_file
from flows.stages import MOST_TASKS, run_stage
from tests.conftest import serving

SHARDS, BUCKETS, MOST_TASK_RUNS, MOST_BYTES = 2_000, 16, 1_000, 1 << 30
SCHEMA = pa.schema([("id", pa.string())])


@dataclass(frozen=True)
class Tick:
    """Says of each number that it was seen: the least that a stage can do."""

    url: str
    numbers: int
    name: str = "tick"
    leads: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make("ticks", SCHEMA)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        wanted = pa.table({"id": [f"{number:09d}" for number in range(bucket, self.numbers, BUCKETS)]})
        done: pads.Dataset = outputs[0].dataset(bucket)
        return query("SELECT id FROM wanted ANTI JOIN done USING (id) ORDER BY id", wanted=wanted, done=done)

    def work(self, shard: Shard) -> Written:
        return Written(shard.rows.num_rows, {"ticks": write_file(self.url, shard.bucket, shard.rows)})


@dataclass(frozen=True)
class Found:
    """What the server, the process and the table's log say of it."""

    shards: int
    rows: int
    seconds: float
    peak: int  # bytes of memory that the run's process had at most
    task_runs: int
    unended: int  # task runs that the server does not know as completed
    dropped: int  # lines of the server's log that say so
    database: int
    commits: int
    log: int
    checkpoint: int  # bytes of the newest
    opening: float  # seconds


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    found = measured(SHARDS, folder)
    told = f"{found.shards:,} shards in {found.seconds:.0f} s, {found.commits} commits, log {found.log / 1e6:.1f} MB"
    yield "task runs of 2,000 shards", found.task_runs, MOST_TASK_RUNS, False, told
    yield "memory of the run's process, GB", found.peak / MOST_BYTES, 1.0, False, ""
    lost = found.unended + found.dropped + (found.shards - found.rows)
    yield "task runs, events and rows that were lost", lost, 0, False, f"the server keeps {found.database / 1e6:.1f} MB"


def measured(shards: int, folder: Path) -> Found:
    lake = Lake.make(str(folder / "lake"), buckets=BUCKETS)
    with serving(folder, "WARNING") as url:
        environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        began = time.perf_counter()
        ran = [sys.executable, "-m", "tests.bench.shards", "run", lake.url, str(shards)]
        peak = int(subprocess.run(ran, env=environment, check=True, capture_output=True, text=True).stdout)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        while (unended := batches(shards) - completed(url)) and time.perf_counter() - began < 60:
            time.sleep(1)  # the last ones are on their way
        dropped = sum(
            "drop" in line.lower() or "queue is full" in line.lower()
            for line in (folder / "log").read_text().split("\n")
        )
    began = time.perf_counter()
    table = lake.table("ticks")
    there = table.rows()
    opening = time.perf_counter() - began
    delta = list((folder / "lake/ticks/_delta_log").iterdir())
    checkpoints = sorted(one for one in delta if "checkpoint" in one.name and one.suffix == ".parquet")
    return Found(
        shards, there, round(seconds, 1), peak, batches(shards), unended, dropped,
        sum(one.stat().st_size for one in folder.glob("prefect.db*")),
        table.version, sum(one.stat().st_size for one in delta if one.suffix == ".json"),
        checkpoints[-1].stat().st_size if checkpoints else 0, round(opening, 2),
    )  # fmt: skip


def batches(shards: int) -> int:
    """And one that stands for the stage in the run above it."""
    return -(-shards // max(LocalEngine().workers, -(-shards // MOST_TASKS))) + 1


def completed(url: str) -> int:
    """Task runs, by the server's table."""
    body = json.dumps({"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}).encode()
    request = urllib.request.Request(f"{url}/task_runs/count", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.loads(answer.read()))


def run(url: str, shards: int) -> int:
    """In a process of its own, whose peak of memory comes back."""
    import resource

    from prefect import flow

    @flow
    def many() -> None:
        with LocalEngine() as engine:
            run_stage(Lake.open(url), Tick(Lake.open(url).table_url("ticks"), shards), engine, 1)

    many()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.stdout.write(f"{run(sys.argv[2], int(sys.argv[3]))}\n")
        sys.stdout.flush()
        os._exit(0)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        sys.stdout.write(json.dumps(asdict(measured(int(sys.argv[1]), Path(place))), indent=2) + "\n")
