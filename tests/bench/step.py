"""What a training step costs beside its arithmetic: reading its batch, checkpoints, and going on after a kill.

A run as `imagen train` makes it, of the tiny base model on a published dataset of drawn scenes. The same step with one
batch held in memory is taken in turn; checkpoints go to a local disk, one every 1,000 steps.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from data.lake import Lake
from data.reader import Reader
from imagen.batches import Endless, Squares
from imagen.checkpoint import Checkpoints
from imagen.diffusion import Diffusion
from imagen.lesson import Lesson
from imagen.presets import TINY
from imagen.run import Run
from imagen.settings import TrainSettings
from imagen.unet import UNet
from tests.imagen.drawn_lake import drawn_lake

SAMPLES, TURNS, EVERY = 1024, 25, 1000
SETTINGS = TrainSettings(batch=32)


class Held:
    """One batch, again and again."""

    def __init__(self, batches: Endless) -> None:
        self.batch = next(batches)

    def __next__(self) -> Any:
        return self.batch


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    torch.set_num_threads(1)
    lake = drawn_lake(folder, SAMPLES)
    run = run_of(lake)
    read, held = run.batches, Held(run_of(lake).batches)
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS + 3):
        for reads in (True, False) if turn % 2 else (False, True):
            run.batches = read if reads else held  # type: ignore[assignment]
            told = run.advance()
            if turn >= 3:
                times[reads].append(told.seconds)
    step, bare = (statistics.median(times[reads]) for reads in (True, False))
    note = f"{step * 1000:.0f} and {bare * 1000:.0f} ms, batch {SETTINGS.batch} of 16 px"
    yield "training step from the reader, beside one batch in memory", step / bare, 1.03, False, note

    run.batches = read
    checkpoints, saving = Checkpoints(str(folder / "checkpoints")), []
    for _ in range(5):
        began = time.perf_counter()
        checkpoints.save(run.state())
        saving.append(time.perf_counter() - began)
        run.advance()
    saved = statistics.median(saving)
    note = f"{saved * 1000:.0f} ms each {EVERY} steps of {step * 1000:.0f} ms; a kill loses at most so many steps"
    yield "share of time that checkpoints take", saved / (saved + EVERY * step), 0.01, False, note

    fresh = run_of(lake)
    began = time.perf_counter()
    state = checkpoints.newest()
    assert state is not None
    fresh.load(state)
    loaded = time.perf_counter() - began
    first = fresh.advance()
    note = f"read and laid out in {loaded:.2f} s, then the first batch after {first.waited:.2f} s"
    yield "resuming from a checkpoint, in steps", (loaded + first.waited) / step, 10.0, False, note


def run_of(lake: Lake) -> Run:
    torch.manual_seed(0)
    stage = TINY.stages[0]
    squares = Squares(Reader(lake, "drawn", columns=("image", "t5")), stage.resolution)
    batches = Endless(squares, SETTINGS.batch, "t5")
    lesson = Lesson(Diffusion(stage.diffusion, stage.resolution))
    return Run(UNet(**TINY.unet(0)), lesson, batches, SETTINGS, Accelerator(cpu=True))
