"""Sampling with our base U-Net beside imagen-pytorch's ancestral sampler, in turn (`sides.py`).

Both take the same number of steps with guidance and dynamic thresholds. Ours runs once as the paper's ancestral sampler
and once as DPM-Solver++, whose steps cost the same: that few are enough for it is another matter.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

from tests.bench.sides import PAIRS, STEPS, both

WARM, TURNS = 1, 5


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    for name, pair in PAIRS.items():
        with both(folder, name) as (ours, theirs):
            turns = []
            for _ in range(WARM + TURNS):
                turns.append((ours.seconds("ddpm"), ours.seconds("dpm"), theirs.seconds("ddpm")))
        for at, sampler in enumerate(("ddpm", "dpm")):
            mine, their = ([turn[which] for turn in turns[WARM:]] for which in (at, 2))
            ratio = statistics.median(other / own for own, other in zip(mine, their, strict=True))
            speeds = " beside ".join(f"{statistics.median(times) / pair.pictures:.3f}" for times in (mine, their))
            note = f"{speeds} s a picture of {STEPS} steps, {pair.pictures} at once"
            yield f"sampling, {sampler}, {name}, against imagen-pytorch", ratio, 1.0, True, note
