"""Run the benchmarks and print their rows: what was measured, the figure, the bound, whether it holds."""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

BENCHES = (
    *("quality", "ingest", "download", "score", "embed", "reader", "nodes", "flow", "shards", "increment"),
    *("train", "sample", "step", "learn", "evaluate", "gate", "describe"),
)


class Row(NamedTuple):
    what: str
    value: float
    bound: float
    more_is_better: bool
    note: str = ""


def main(names: list[str]) -> int:
    failed = 0
    for name in names or BENCHES:
        module = importlib.import_module(f"tests.bench.{name}")
        with tempfile.TemporaryDirectory() as folder:
            rows: Iterator[tuple[str, float, float, bool, str]] = module.rows(Path(folder))
            for row in map(Row._make, rows):
                holds = row.value >= row.bound if row.more_is_better else row.value <= row.bound
                failed += not holds
                sign = "≥" if row.more_is_better else "≤"
                verdict = "holds" if holds else "SHORT"
                sys.stdout.write(f"{row.what:<58} {row.value:8.3f}  {sign} {row.bound:<6g} {verdict}  {row.note}\n")
                sys.stdout.flush()
    return failed


if __name__ == "__main__":
    failed = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(min(1, failed))  # as the command does: finalizing the interpreter races with threads of Arrow's
