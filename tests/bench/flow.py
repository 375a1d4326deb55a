"""What Prefect adds to a shard: a flow over shards that do nothing beside the plain map, by a real shard's time."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from prefect import flow

from data.build import way
from data.engine import LocalEngine
from data.lake import Lake
from data.recipe import load_recipe
from data.stage import Shard, Written, make_plan
from data.world.make import HOST, make_world
from data.world.server import start_process
from flows.rebuild import map_batches

SHARDS, ROWS = 200, 1000


@dataclass(frozen=True)
class Idle:
    name: str = "idle"

    def work(self, shard: Shard) -> Written:
        return Written(shard.rows.num_rows, {})


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
            for _ in map_batches(Idle(), shards, engine):
                pass
            return time.perf_counter() - began

        flowed = under_prefect()
        make_world(folder / "world", 2 * ROWS, 8)
        with start_process(folder / "world") as origin:
            lake = Lake.make(str(folder / "lake"), buckets=1, hosts={HOST: origin.address})
            ways = way(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),)))
            ways.ingest()
            shard = make_plan(lake, ways.stages[0], ROWS).shards[0]
            began = time.perf_counter()
            list(engine.map(ways.stages[0].work, [shard]))
            real = time.perf_counter() - began
    overhead = max(0.0, flowed - plain) / SHARDS
    note = f"{overhead * 1000:.1f} ms a shard; a download shard of {ROWS} rows takes {real:.1f} s"
    yield "Prefect's overhead on a shard of 1,000 rows", overhead / real, 0.05, False, note
