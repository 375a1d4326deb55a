"""A cascade is trained: every stage to its end, from a published dataset version to a model of the lake.

A training is named by what it is made from, and lies in the lake under `training/`: run again, it goes on from its last
checkpoint; once it is a row of `models`, there is nothing to do.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

import psutil
import torch
from accelerate import PartialState

from data.lake import storage
from data.lake.layout import GRIDS_FOLDER, TRAINING_RECORD
from imagen.cascade.unet import UNet
from imagen.config.stage import TrainSettings
from imagen.errors import OutOfMemory, TrainingDiverged, TrainingStopped
from imagen.models.assemble import add_model, assemble_pipeline
from imagen.models.table import TrainedModel, model_by_id
from imagen.train.checkpoint import device_seconds
from imagen.train.distributed import broadcast_state
from imagen.train.lora import add_lora, merge_lora
from imagen.train.measures import Measures
from imagen.train.sample_grid import write_grid
from imagen.train.setup import Training
from imagen.train.stage_run import Run, StepResult
from imagen.train.start import start_run


@dataclass
class TrainingCallbacks:
    """Who is told how a training gets on."""

    on_stage: Callable[[int, TrainSettings, int, float], None] = lambda stage, settings, step, done: None
    on_step: Callable[[int, StepResult, float], None] = lambda stage, broadcast_state, done: None


@dataclass
class TrainingResult:
    """What a training came to."""

    trained: TrainedModel | None  # none if only some stages were asked for
    stages: dict[int, dict[str, float]] = field(default_factory=dict)  # steps, seconds, loss of those trained now
    url: str = ""


def train(
    training: Training, stages: list[int] | None = None, watch: TrainingCallbacks | None = None, cpu: bool = False
) -> TrainingResult:
    """Train all stages in order, or some; the model is written when the last of all is done."""
    watch = watch or TrainingCallbacks()
    ended = TrainingResult(model_by_id(training.lake, training.id), url=training.url)
    if ended.trained is not None:
        return ended
    here = PartialState(cpu=cpu)
    asked = stages if stages is not None else range(len(training.cascade.stages))
    for stage in asked:
        training.config.training(stage).samples_per_process(here.num_processes)
    if here.is_main_process:
        about = {"dataset": f"{training.dataset}@{training.version}", "config": training.config.model_dump(mode="json")}
        storage.write(storage.join(training.url, TRAINING_RECORD), json.dumps(about, indent=2).encode())
    with stop_on_signal() as stop:
        for stage in asked:
            ended.stages[stage] = train_stage(training, stage, watch, stop, cpu)
    with here.main_process_first():
        ended.trained = model_by_id(training.lake, training.id) or assemble_trained(training)
    return ended


def train_stage(
    training: Training, stage: int, watch: TrainingCallbacks, stop: list[bool], cpu: bool = False
) -> dict[str, float]:
    """One stage to its end, from its last checkpoint if there is one."""
    settings, place = training.config.training(stage), training.stage_url(stage)
    run = start_run(training, stage, cpu)
    main = run.accelerator.is_main_process
    checkpoints, measures = training.checkpoints(stage), Measures(storage.join(place, "measures"))
    state = broadcast_state(checkpoints.newest() if main else None)
    if state is not None:
        run.load(state)
    if main:
        measures.resume(run.step)
    watch.on_stage(stage, settings, run.step, run.done)
    began, loss = time.monotonic(), math.nan
    while run.done < 1:
        run.stop = stop[0]
        step = _advanced(run, stage, measures)
        if math.isfinite(step.loss):
            loss = step.loss if math.isnan(loss) else 0.98 * loss + 0.02 * step.loss
        if main:
            measures.note(run.step, step_measures(run, step))
        watch.on_step(stage, step, run.done)
        over = run.done >= 1
        if over or step.stop or run.step % settings.checkpoint_every == 0:
            kept = run.state()
            if main:
                measures.write()
                measures.begin(run.step)
                checkpoints.save(replace(kept, over=over))
            run.accelerator.wait_for_everyone()
        if settings.grid_every and (over or run.step % settings.grid_every == 0):
            draw_grid(training, run, stage)
        if step.stop and not over:
            raise TrainingStopped(
                f"stopped after step {run.step} of stage {stage + 1}; a checkpoint is written, and the same command "
                "goes on from it"
            )
    return {"steps": run.step, "seconds": time.monotonic() - began, "loss": loss, "skipped": run.skipped}


def _advanced(run: Run, stage: int, measures: Measures) -> StepResult:
    """A step; where it fails for good, what was measured until then is kept."""
    try:
        return run.advance()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"out of memory in stage {stage + 1} with {run.share} samples at once: raise accumulate (now "
            f"{run.settings.accumulate}), or set gradient_checkpointing, precision: bf16, or a smaller batch or crop"
        ) from error
    except TrainingDiverged:
        measures.write()
        raise


def assemble_trained(training: Training) -> TrainedModel | None:
    """The averaged weights of every stage become a model of the lake, once all are at their ends."""
    unets, stages = [], {}
    for stage in range(len(training.cascade.stages)):
        state = training.checkpoints(stage).newest(("unet", "ema"))
        if state is None or not state.over:
            return None
        unet = UNet(**training.cascade.unet_arguments(stage))
        if training.config.lora:
            add_lora(unet, training.config.lora.rank, training.config.lora.alpha)
        unet.load_state_dict(state.tensors["unet"] | state.tensors["ema"])
        if training.config.lora:
            merge_lora(unet)
        unets.append(unet.eval())
        stages[f"stage-{stage + 1}"] = {
            "steps": state.step,
            "seconds": state.more["seconds"],
            "device_seconds": device_seconds(state.more),
        }
    model = assemble_pipeline(training.cascade, training.config.sampling, training.text, unets)
    lineage = {"dataset": training.dataset, "version": training.version, "stages": stages}
    return add_model(training.lake, training.config, training.id, model, lineage)


def step_measures(run: Run, broadcast_state: StepResult) -> dict[str, float]:
    """What is noted of a step."""
    device = run.accelerator.device
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    values = {
        "loss": broadcast_state.loss,
        "gradient_norm": broadcast_state.gradient,
        "learning_rate": broadcast_state.rate,
        "samples_per_second": run.settings.batch / broadcast_state.seconds,
        "data_wait": broadcast_state.waited / broadcast_state.seconds,
        "memory_bytes": float(memory),
        "skipped": float(run.skipped),
        "done": run.done,
    }
    values |= {f"error/noise_{at}": error for at, error in enumerate(broadcast_state.errors) if error is not None}
    return {name: value for name, value in values.items() if math.isfinite(value)}  # JSON knows no others


def draw_grid(training: Training, run: Run, stage: int) -> None:
    """What the stage makes of the first samples' captions, beside their pictures."""
    url = storage.join(training.stage_url(stage), GRIDS_FOLDER, f"step-{run.step:09d}.png")
    reader = training.reader(stage, shuffle=False, rank=0, world=1)  # the same on every process
    write_grid(url, run, reader, training.config.text, training.config.fit)


@contextmanager
def stop_on_signal() -> Iterator[list[bool]]:
    """True once we were told to end, by SIGTERM or Ctrl-C; told twice, Ctrl-C ends at once."""
    asked = [False]

    def ask(number: int, frame: FrameType | None) -> None:
        if asked[0] and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked[0] = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, where signals are somebody else's
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
