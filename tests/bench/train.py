"""A training step of our base U-Net beside imagen-pytorch's on the same batch in memory, in turn (`sides.py`)."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.bench.sides import PAIRS, both

WARM, TURNS = 2, 9


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    for name, pair in PAIRS.items():
        with both(folder, name) as sides:
            for _ in range(WARM):
                for side in sides:
                    side.seconds("train")
            times = [[side.seconds("train") for side in sides] for _ in range(TURNS)]
            counts = " and ".join(f"{side.parameters / 1e6:.2f}" for side in sides)
        mine, their = (pair.batch / statistics.median(column) for column in zip(*times, strict=True))
        note = f"{mine:.1f} beside {their:.1f} samples/s, batch {pair.batch}, {counts} M parameters"
        ratio = statistics.median(theirs / ours for ours, theirs in times)
        yield f"training step, {name}, against imagen-pytorch", ratio, 1.5, True, note
