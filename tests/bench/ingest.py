"""Reading sources into a lake: CPU a row by format, and the most memory, each in a process of its own."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS, BUCKETS = 300_000, 16
READ = """
import sys, time
from datetime import UTC, datetime
from data.sources.ingest import ingest
from data.lake.lake import Lake, LakeConfig
from data.sources.sources import Source
path, folder, buckets = sys.argv[1:]
lake = Lake(folder, LakeConfig(buckets=int(buckets), made=datetime.now(UTC)))
lake.save()
source = (Source(path=path, preset="laion2b"),)
began = time.process_time()
new = ingest(lake, source, datetime.now(UTC)).new
took, again = time.process_time() - began, time.process_time()
ingest(lake, source, datetime.now(UTC))
most = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(new, took, time.process_time() - again, most)
"""


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    table = published(ROWS)
    for kind, bound in (("parquet", 20.0), ("csv", 40.0), ("jsonl", 40.0)):
        path = folder / f"pairs.{kind}"
        write(path, table)
        command = [sys.executable, "-c", READ, str(path), str(folder / kind), str(BUCKETS)]
        figures = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        new, took, again, most = int(figures[0]), float(figures[1]), float(figures[2]), int(figures[3]) / 1024
        assert new == ROWS
        note = f"{most:.0f} MB at most; with the file known {again * 1000:.0f} ms in all"
        yield f"CPU a row of {kind} with 5 columns, in µs", took / ROWS * 1e6, bound, False, note


def published(count: int) -> pa.Table:
    """Rows as LAION has them."""
    chance = random.Random(5)
    words = [f"word{n}" for n in range(5000)]
    return pa.table(
        {
            "URL": [
                f"https://images{chance.randrange(10_000)}.example.com/{chance.random()}/{n}.jpg" for n in range(count)
            ],
            "TEXT": [" ".join(chance.choices(words, k=10)) for _ in range(count)],
            "similarity": [chance.random() for _ in range(count)],
            "punsafe": [chance.random() for _ in range(count)],
            "LICENSE": ["?"] * count,
        }
    )


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([table.column_names, *zip(*(c.to_pylist() for c in table.columns), strict=True)])
        else:
            file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
