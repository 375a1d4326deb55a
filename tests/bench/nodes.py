"""The stage that looks at pictures, on a Ray cluster of two nodes: two workers beside one, a thread each, in turn."""

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.engine.pool import Engine
from data.engine.stage import Shard, make_plan
from data.scorers.stages import ScorePictures
from tests.bench.score import filled, of_real_size, seconds
from tests.servers.ray_cluster import two_nodes

SHARDS, SHARD, TURNS = 8, 32, 3  # a batch each, as a smaller one costs as much


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    from data.engine.ray import RayEngine

    lake = filled(folder)
    look = ScorePictures(lake, of_real_size(folder).inputs())
    shards = make_plan(lake, look, SHARD).shards[:SHARDS]
    with two_nodes(), RayEngine(1, 1, cpus=0.5) as single, RayEngine(2, 1, cpus=0.5) as pair:
        for engine in (single, pair):
            run(engine, look, shards[:4])  # the models are loaded
        times = [[seconds(partial(run, engine, look, shards)) for engine in (single, pair)] for _ in range(TURNS)]
    note = ", ".join(f"{alone:.1f} and {both:.1f} s" for alone, both in times)
    pictures = sum(shard.rows.num_rows for shard in shards)
    ratio = statistics.median(alone / both for alone, both in times)
    yield "two workers of Ray beside one, ViT-B/32's looking", ratio, 1.7, True, f"{note}, {pictures} pictures"


def run(engine: Engine, look: ScorePictures, shards: list[Shard]) -> None:
    list(engine.map(look.work, shards))
