"""Train a cascade on a published dataset version, every stage to its end, and add the model to the lake.

A training's id is computed from its inputs, and its checkpoints are in the lake under `training/`. A repeated run
continues from the last checkpoint. Once the model is a row of `models`, nothing is left to do.
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
from imagen.models.lora import add_lora, merge_lora
from imagen.models.table import TrainedModel, model_by_id
from imagen.train.checkpoint import device_seconds
from imagen.train.distributed import broadcast_state
from imagen.train.measures import Measures
from imagen.train.sample_grid import write_grid
from imagen.train.setup import Training
from imagen.train.stage_run import Run, StepResult
from imagen.train.start import start_run


@dataclass
class TrainingCallbacks:
    """Functions that are called while a training goes on. The last argument of each is the stage's progress, 0 to 1."""

    on_stage: Callable[[int, TrainSettings, int, float], None] = lambda stage, settings, step, progress: None
    on_step: Callable[[int, StepResult, float], None] = lambda stage, step, progress: None


@dataclass
class TrainingResult:
    """The outcome of a call of `train`."""

    trained: TrainedModel | None  # None while a stage is not at its end
    stages: dict[int, dict[str, float]] = field(default_factory=dict)  # steps, seconds, loss of those trained now
    url: str = ""


def train(
    training: Training,
    stages: list[int] | None = None,
    callbacks: TrainingCallbacks | None = None,
    cpu: bool = False,
) -> TrainingResult:
    """Train stages in order. The model is added to the lake when all stages are at their ends.

    Args:
        stages: the numbers of the stages to train, from 0; all if not given.
        cpu: train on the CPU even if there is a GPU.

    Raises:
        TrainingStopped: a signal asked to stop; the same call continues the training.
        TrainingDiverged: no step had a finite loss for a while.
        OutOfMemory: a step needs more memory than there is.
        ConfigError: a batch can't be divided among the processes.
        EmptyDataset: the dataset has fewer samples than a batch.
    """
    callbacks = callbacks or TrainingCallbacks()
    result = TrainingResult(model_by_id(training.lake, training.id), url=training.url)
    if result.trained is not None:
        return result
    process = PartialState(cpu=cpu)
    requested = stages if stages is not None else range(len(training.cascade.stages))
    for stage in requested:  # before hours of training: whether every batch can be divided
        training.config.training(stage).samples_per_process(process.num_processes)
    if process.is_main_process:
        about = {"dataset": f"{training.dataset}@{training.version}", "config": training.config.model_dump(mode="json")}
        storage.write(storage.join(training.url, TRAINING_RECORD), json.dumps(about, indent=2).encode())
    with stop_on_signal() as stop:
        for stage in requested:
            result.stages[stage] = train_stage(training, stage, callbacks, stop, cpu)
    with process.main_process_first():
        result.trained = model_by_id(training.lake, training.id) or assemble_trained(training)
    return result


def train_stage(
    training: Training, stage: int, callbacks: TrainingCallbacks, stop: list[bool], cpu: bool = False
) -> dict[str, float]:
    """Train one stage to its end, from its last checkpoint if there is one.

    Returns:
        The steps, the seconds of this call, the running mean of the loss, and the number of skipped steps.
    """
    settings, url = training.config.training(stage), training.stage_url(stage)
    run = start_run(training, stage, cpu)
    main = run.accelerator.is_main_process
    checkpoints, measures = training.checkpoints(stage), Measures(storage.join(url, "measures"))
    state = broadcast_state(checkpoints.newest() if main else None)
    if state is not None:
        run.load(state)
    if main:
        measures.resume(run.step)
    callbacks.on_stage(stage, settings, run.step, run.progress)
    started, loss = time.monotonic(), math.nan
    while run.progress < 1:
        run.stop = stop[0]
        step = _advance(run, stage, measures)
        if math.isfinite(step.loss):
            loss = step.loss if math.isnan(loss) else 0.98 * loss + 0.02 * step.loss  # a running mean, to report
        if main:
            measures.note(run.step, step_measures(run, step))
        callbacks.on_step(stage, step, run.progress)
        finished = run.progress >= 1
        if finished or step.stop or run.step % settings.checkpoint_every == 0:
            state = run.state()
            if main:
                measures.write()
                measures.begin(run.step)
                checkpoints.save(replace(state, finished=finished))
            run.accelerator.wait_for_everyone()
        if settings.grid_every and (finished or run.step % settings.grid_every == 0):
            draw_grid(training, run, stage)
        if step.stop and not finished:
            raise TrainingStopped(
                f"stopped after step {run.step} of stage {stage + 1}; a checkpoint is written: run the same command "
                "again to continue"
            )
    return {"steps": run.step, "seconds": time.monotonic() - started, "loss": loss, "skipped": run.skipped}


def _advance(run: Run, stage: int, measures: Measures) -> StepResult:
    """Make a step. If the step fails, the measures until then are written."""
    try:
        return run.advance()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"out of memory in stage {stage + 1} with {run.batch_share} samples at once: raise accumulate (now "
            f"{run.settings.accumulate}), or set gradient_checkpointing, precision: bf16, or a smaller batch or crop"
        ) from error
    except TrainingDiverged:
        measures.write()
        raise


def assemble_trained(training: Training) -> TrainedModel | None:
    """Add the model to the lake, with the averaged weights of every stage; None while a stage is not at its end."""
    unets, stages = [], {}
    for stage in range(len(training.cascade.stages)):
        state = training.checkpoints(stage).newest(("unet", "ema"))
        if state is None or not state.finished:
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
            "seconds": state.values["seconds"],
            "device_seconds": device_seconds(state.values),
        }
    model = assemble_pipeline(training.cascade, training.config.sampling, training.text, unets)
    lineage = {"dataset": training.dataset, "version": training.version, "stages": stages}
    return add_model(training.lake, training.config, training.id, model, lineage)


def step_measures(run: Run, step: StepResult) -> dict[str, float]:
    """Return the measures of a step by name, without those that are not finite, because JSON has no number for them."""
    device = run.accelerator.device
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    values = {
        "loss": step.loss,
        "gradient_norm": step.gradient_norm,
        "learning_rate": step.learning_rate,
        "samples_per_second": run.settings.batch / step.seconds,
        "data_wait": step.data_seconds / step.seconds,
        "memory_bytes": float(memory),
        "skipped": float(run.skipped),
        "done": run.progress,
    }
    for bucket, error in enumerate(step.bucket_errors):
        if error is not None:
            values[f"error/noise_{bucket}"] = error
    return {name: value for name, value in values.items() if math.isfinite(value)}


def draw_grid(training: Training, run: Run, stage: int) -> None:
    """Write the grid of a step: the first samples, and images that the stage generates for their captions."""
    url = storage.join(training.stage_url(stage), GRIDS_FOLDER, f"step-{run.step:09d}.png")
    reader = training.reader(stage, shuffle=False, rank=0, world=1)  # the same on every process
    write_grid(url, run, reader, training.config.text, training.config.fit)


@contextmanager
def stop_on_signal() -> Iterator[list[bool]]:
    """Let SIGTERM and Ctrl-C set the first entry of the list to true inside the block.

    A second Ctrl-C ends the program.

    In other threads than the main one the entry stays false, because only the main thread gets signals.
    """
    requested = [False]

    def request_stop(number: int, frame: FrameType | None) -> None:
        if requested[0] and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested[0] = True

    try:
        previous = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread
        yield requested
        return
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
