"""What a training step costs beside its arithmetic: reading its batch, checkpoints, and going on after a kill.

A run as `imagen train` makes it, of the tiny base model on a published dataset of drawn scenes. The same step with a
batch in memory is taken in turn; checkpoints go to a local disk, one every 1,000 steps. What a new process
takes to start comes on top of resuming.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator

from data.lake.lake import Lake
from data.reader.reader import Reader
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.unet import UNet
from imagen.config.presets import TINY
from imagen.config.stage import TrainSettings
from imagen.train.batches import Batch, BatchStream, SquareSamples
from imagen.train.checkpoint import Checkpoints
from imagen.train.loss import StageLoss
from imagen.train.stage_run import Run
from tests.lakes.drawn import make_drawn_lake

SAMPLES, WARM, TURNS, EVERY = 1024, 3, 120, 1000
SETTINGS = TrainSettings(batch=32)


class RepeatedBatches:
    """The reader's batches, or the last of them again: another may have longer texts, and take longer."""

    def __init__(self, batches: BatchStream) -> None:
        self.batches, self.reads, self.last = batches, True, next(batches)

    def __next__(self) -> Batch:
        if self.reads:
            self.last = next(self.batches)
        return self.last

    def read_ahead(self) -> None:
        if self.reads:
            self.batches.read_ahead()


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    torch.set_num_threads(1)
    lake = make_drawn_lake(folder, SAMPLES)
    run = run_of(lake)
    batches, repeated = run.batches, RepeatedBatches(run.batches)
    run.batches = repeated  # type: ignore[assignment]
    times: dict[bool, list[float]] = {True: [], False: []}
    waits = []
    for turn in range(WARM + TURNS):
        for reads in (True, False) if turn % 2 else (False, True):
            repeated.reads = reads
            progress = run.advance()
            times[reads].append(progress.seconds)
            if reads:
                waits.append(progress.data_seconds)
    step, bare, waited = (statistics.median(seconds[WARM:]) for seconds in (times[True], times[False], waits))
    ratio = statistics.median(read / again for read, again in list(zip(times[True], times[False], strict=True))[WARM:])
    each = f"batch {SETTINGS.batch} of {TINY.stages[0].resolution} px"
    note = f"{step * 1000:.0f} and {bare * 1000:.0f} ms, {waited * 1000:.1f} ms waited, {each}"
    yield "training step from the reader, beside a batch in memory", ratio, 1.03, False, note

    run.batches = batches
    checkpoints, saving = Checkpoints(str(folder / "checkpoints")), []
    for _ in range(5):
        began = time.perf_counter()
        checkpoints.save(run.state())
        saving.append(time.perf_counter() - began)
        run.advance()
    saved = statistics.median(saving)
    note = f"{saved * 1000:.0f} ms each {EVERY} steps of {step * 1000:.0f} ms; a kill loses at most {EVERY} steps"
    yield "share of time that checkpoints take", saved / (saved + EVERY * step), 0.01, False, note

    fresh = run_of(lake)
    began = time.perf_counter()
    state = checkpoints.newest()
    assert state is not None
    fresh.load(state)
    loaded = time.perf_counter() - began
    first = fresh.advance()
    note = f"read and laid out in {loaded:.2f} s, then the first batch after {first.data_seconds:.2f} s"
    yield "resuming from a checkpoint, in steps", (loaded + first.data_seconds) / step, 10.0, False, note


def run_of(lake: Lake) -> Run:
    torch.manual_seed(0)
    stage = TINY.stages[0]
    squares = SquareSamples(Reader(lake, "drawn", columns=("image", "t5")), stage.resolution)
    batches = BatchStream(squares, SETTINGS.batch, "t5")
    loss = StageLoss(Diffusion(stage.diffusion, stage.resolution))
    return Run(UNet(**TINY.unet_arguments(0)), loss, batches, SETTINGS, Accelerator(cpu=True))
