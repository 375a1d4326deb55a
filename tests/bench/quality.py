"""The shipped recipe on a world that no model saw: precision and recall of what is dropped, for each kind of fault.

Of pairs that are there twice one must stay, whichever: a dropped one is right if another of its group is kept.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data.build.build import build
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.world.make import HOST, make_world
from data.world.server import start_process

PAIRS, SEED = 10_000, 90210
# kind: what drops it, the faults it is made of, and the least precision and recall
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float, float]] = {
    "swapped captions": (("clip_score",), ("swapped",), 0.95, 0.95),
    "exact duplicates": (("unique content",), ("exact_duplicate",), 1.0, 1.0),
    "near duplicates": (("unique look",), ("near_duplicate",), 0.95, 0.95),
    "size": (("side",), ("too_small",), 0.99, 0.97),
    "aspect": (("aspect",), ("extreme_aspect",), 0.99, 0.97),
    "short captions": (("caption_words",), ("few_words",), 0.99, 0.97),
    "language": (("caption_english",), ("foreign",), 0.99, 0.97),
    "fetch faults and opt-outs": (("not fetched",), ("fetch", "opt_out", "robots"), 1.0, 1.0),
}

Label = dict[str, Any]


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    make_world(folder / "world", PAIRS, SEED)
    with start_process(folder / "world") as origin, LocalEngine() as engine:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        build(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),)), engine)
    labels = {row["id"]: row for row in pq.read_table(folder / "world/labels.parquet").to_pylist()}
    fell = {row["id"]: row["reasons"] for row in lake.table("verdicts/shapes").dataset().to_table().to_pylist()}
    kept_ids = {id for id, reasons in fell.items() if not reasons}
    same = groups_of(labels, ("exact_duplicate",))
    alike = groups_of(labels, ("exact_duplicate", "near_duplicate"))
    for kind, (reasons, faults, precision, recall) in KINDS.items():
        dropped = {id for id, causes in fell.items() if causes and causes[0].startswith(reasons)}
        faulty = {id for id, label in labels.items() if label["fault"] in faults}
        if "duplicate" in kind:
            groups = same if kind == "exact duplicates" else alike
            true = {id for id in dropped if alike[id] & kept_ids}
            caught = {id for id in faulty if len(groups[id] & kept_ids) <= 1}
        else:
            true, caught = dropped & faulty, {id for id in faulty if fell[id]}
        yield f"{kind}: precision", len(true) / len(dropped), precision, True, f"{len(dropped)} dropped"
        yield f"{kind}: recall", len(caught) / len(faulty), recall, True, f"{len(faulty)} faulty"
    right = {id for id, label in labels.items() if label["right"]}
    stays = sum(bool(alike[id] & kept_ids) for id in right) / len(right)
    yield "right pairs that are kept, themselves or their double", stays, 0.95, True, f"{len(right)} right"


def groups_of(labels: dict[str, Label], faults: tuple[str, ...]) -> dict[str, set[str]]:
    """Each pair's group: an original, and those of its copies whose fault is asked for."""
    groups = defaultdict(set)
    for id, label in labels.items():
        groups[label["duplicate_of"] if label["fault"] in faults else label["url"]].add(id)
    return {id: group for group in groups.values() for id in group}
