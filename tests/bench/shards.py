"""A rebuild of very many shards that cost nothing, of a new scorer over an old lake: what server and log make of it.

With 2,000 shards here; `python -m tests.bench.shards 100000 FOLDER` for as many as you like.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.scorers.scorer import CaptionScorer
from flows.runs.stages import MOST_TASKS
from tests.conftest import serving
from tests.lakes.fetched import RECIPE, add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.servers.prefect_api import request

SHARDS, BUCKETS, MOST_TASK_RUNS, MOST_BYTES = 2_000, 16, 1_000, 1 << 30
TICK = "scores:\n  tick: {scorer: tests.bench.shards.Tick}\n"  # a shard for every row of it


class Tick(CaptionScorer):
    """Gives every pair the same value: the least that a scorer can do."""

    columns = pa.schema({"seen": pa.bool_()})

    def read(self, caption: str) -> dict[str, Any]:
        return {"seen": True}


@dataclass(frozen=True)
class Measurement:
    """What a run cost, by the server, the process and the log of the scorer's table."""

    shards: int
    rows: int  # of the scorer's table
    published: int  # of the new version
    missing: int  # rows of it without the scorer's value
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
    figures = measured(SHARDS, folder)
    log = f"{figures.commits} commits, log {figures.log / 1e6:.1f} MB"
    note = f"{figures.shards:,} shards in {figures.seconds:.0f} s, {log}"
    yield "task runs of 2,000 shards", figures.task_runs, MOST_TASK_RUNS, False, note
    yield "memory of the run's process, GB", figures.peak / MOST_BYTES, 1.0, False, ""
    lost = figures.unended + figures.dropped + figures.missing + (figures.shards - figures.rows)
    yield (
        "task runs, events and rows that were lost",
        lost,
        0,
        False,
        f"the server keeps {figures.database / 1e6:.1f} MB",
    )


def measured(shards: int, folder: Path) -> Measurement:
    lake, source, recipe = (
        Lake.make(str(folder / "lake"), buckets=BUCKETS),
        folder / "pairs.parquet",
        folder / "new.yaml",
    )
    add_fetched_pairs(lake, source, numbered_pairs(shards))
    before = build_in_process(lake, small_recipe(source))
    recipe.write_text(RECIPE.format(source=source, threshold=0.2).replace("scores:\n", TICK) + "shard_rows: 1\n")
    with serving(folder, "WARNING") as url:
        environment = {**os.environ, "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "ERROR"}
        began = time.perf_counter()
        ran = [sys.executable, "-m", "tests.bench.shards", "run", str(recipe), lake.url]
        peak = int(subprocess.run(ran, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds = time.perf_counter() - began
        task_runs = expected(url)
        began = time.perf_counter()
        while (unended := task_runs - completed(url)) and time.perf_counter() - began < 60:
            time.sleep(1)  # the last ones are on their way
        dropped = sum(
            "drop" in line.lower() or "queue is full" in line.lower()
            for line in (folder / "log").read_text().split("\n")
        )
    began = time.perf_counter()
    table = lake.table(Tick().table)
    scored = table.count_rows()
    opening = time.perf_counter() - began
    dataset = lake.table(f"datasets/{before.dataset}").dataset()
    delta = list((folder / "lake" / table.name / "_delta_log").iterdir())
    checkpoints = sorted(file for file in delta if "checkpoint" in file.name and file.suffix == ".parquet")
    return Measurement(
        shards=shards,
        rows=scored,
        published=dataset.count_rows(),
        missing=dataset.count_rows(~pc.field("tick_seen").is_valid()),
        seconds=round(seconds, 1),
        peak=peak,
        task_runs=task_runs,
        unended=unended,
        dropped=dropped,
        database=sum(file.stat().st_size for file in folder.glob("prefect.db*")),
        commits=table.version,
        log=sum(file.stat().st_size for file in delta if file.suffix == ".json"),
        checkpoint=checkpoints[-1].stat().st_size if checkpoints else 0,
        opening=round(opening, 2),
    )


def expected(url: str) -> int:
    """Task runs, by what each stage's run was given, and the one that says what the dataset was made from."""
    stages = request(f"{url}/flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}})
    return sum(batches(stage_run["parameters"]["shards"]) for stage_run in stages) + 1


def batches(shards: int) -> int:
    """And one that stands for the stage in the run above it."""
    return -(-shards // max(LocalEngine().workers, -(-shards // MOST_TASKS))) + 1


def completed(url: str) -> int:
    """Task runs, by the server's table."""
    return int(request(f"{url}/task_runs/count", {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}))


def run(recipe: str, lake: str) -> int:
    """In a process of its own, whose peak of memory comes back."""
    import resource

    from flows.runs.rebuild import rebuild

    rebuild(recipe, lake)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.stdout.write(f"{run(*sys.argv[2:])}\n")
        sys.stdout.flush()
        os._exit(0)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as place:
        sys.stdout.write(json.dumps(asdict(measured(int(sys.argv[1]), Path(place))), indent=2) + "\n")
