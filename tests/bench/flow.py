"""What Prefect adds to a shard: a flow over shards that do nothing beside the plain map, by a real shard's time.

And what a build with nothing to do takes beyond an empty flow, each a process of its own with a temporary server.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from prefect import flow

from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.engine.stage import Shard, ShardResult, make_plan
from data.lake.lake import Lake
from data.world.make import HOST, make_world
from data.world.server import start_process
from flows.runs.stages import map_batches

SHARDS, ROWS, TURNS = 200, 1000, 5
EMPTY = """
from prefect import flow

@flow
def empty():
    pass

empty()
"""


@dataclass(frozen=True)
class Idle:
    name: str = "idle"

    def work(self, shard: Shard) -> ShardResult:
        return ShardResult(shard.rows.num_rows, {})


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    shards = [Shard(0, pa.table({"id": [str(n)] * ROWS})) for n in range(SHARDS)]
    with LocalEngine() as engine:
        list(engine.map(Idle().work, shards[:8]))
        began = time.perf_counter()
        list(engine.map(Idle().work, shards))
        plain = time.perf_counter() - began

        @flow
        def under_prefect() -> float:
            began = time.perf_counter()
            for _ in map_batches(Idle(), shards, engine, []):
                pass
            return time.perf_counter() - began

        flowed = under_prefect()
        make_world(folder / "world", 2 * ROWS, 8)
        with start_process(folder / "world") as origin:
            lake = Lake.make(str(folder / "lake"), buckets=1, hosts={HOST: origin.address})
            pipeline = make_pipeline(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),)))
            pipeline.ingest()
            shard = make_plan(lake, pipeline.stages[0], ROWS).shards[0]
            began = time.perf_counter()
            list(engine.map(pipeline.stages[0].work, [shard]))
            real = time.perf_counter() - began
            beyond = list(seconds_beyond_an_empty_flow(folder, lake))
    overhead = max(0.0, flowed - plain) / SHARDS
    note = f"{overhead * 1000:.1f} ms a shard; a download shard of {ROWS} rows takes {real:.1f} s"
    yield "Prefect's overhead on a shard of 1,000 rows", overhead / real, 0.05, False, note
    note = ", ".join(f"{seconds:.1f}" for seconds in beyond)
    yield "seconds of a build with nothing pending, beyond Prefect's", statistics.median(beyond), 5.0, False, note


def seconds_beyond_an_empty_flow(folder: Path, lake: Lake) -> Iterator[float]:
    build = [str(Path(sys.executable).with_name("imagen")), "build", "shapes", "--lake", lake.url]
    build += ["--source", str(folder / "world/pairs.parquet")]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
    subprocess.run(build, env=environment, check=True, capture_output=True)
    for _ in range(TURNS):
        times = []
        for command in (build, [sys.executable, "-c", EMPTY]):
            began = time.perf_counter()
            subprocess.run(command, env=environment, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        yield times[0] - times[1]
