"""The shipped recipe on a world that no model saw: what is kept of the right, and what is right of the kept."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data.build import build
from data.engine import LocalEngine
from data.lake import Lake
from data.recipe import load_recipe
from data.world.make import HOST, make_world
from data.world.server import start_process

PAIRS, SEED = 2000, 90210
NEAR = ("near_duplicate", "exact_duplicate")  # true pairs, only there twice: not counted yet


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    make_world(folder / "world", PAIRS, SEED)
    with start_process(folder / "world") as origin, LocalEngine() as engine:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        build(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),)), engine)
    labels = {row["id"]: row for row in pq.read_table(folder / "world/labels.parquet").to_pylist()}
    kept = set(lake.table("datasets/shapes").dataset().to_table(columns=["id"])["id"].to_pylist())
    right = {id for id, label in labels.items() if label["right"]}
    counted = {id for id in kept if labels[id]["fault"] not in NEAR}
    wrong = Counter(labels[id]["fault"] for id in counted - right)
    lost = Counter(labels[id]["format"] or labels[id]["origin"] for id in right - kept)
    yield (
        "right pairs that are kept",
        len(right & kept) / len(right),
        0.95,
        True,
        f"{len(right)} right; lost {dict(lost)}",
    )
    yield (
        "kept pairs that are right",
        len(counted & right) / len(counted),
        0.95,
        True,
        f"{len(counted)} kept; {dict(wrong)}",
    )
