"""A cascade is trained: every stage to its end, from a published dataset version to a model of the lake.

A training is named by what it is made from, and lies in the lake under `training/`: run again, it goes on from its last
checkpoint; once it is a row of `models`, there is nothing to do.
"""

import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from data import storage
from data.encoder import EncoderSettings
from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.forget import ABOUT, GRIDS, TRAININGS
from data.lake import Lake
from data.reader import Reader
from data.versions import Version, versions
from imagen.batches import Endless, Squares, picture_column
from imagen.cascade import CascadeSettings
from imagen.checkpoint import Checkpoints
from imagen.config import TrainConfig
from imagen.diffusion import Diffusion
from imagen.errors import OutOfMemory, TextNotUsable, TrainingDiverged, TrainingStopped
from imagen.grid import write_grid
from imagen.lesson import Lesson
from imagen.lora import add_lora, merge_lora
from imagen.measures import Measures
from imagen.model import Imagen, check_shapes
from imagen.models import Trained, add_model, model_of, pipeline_of
from imagen.processes import told
from imagen.run import Run, Told
from imagen.settings import TrainSettings
from imagen.unet import UNet


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and where it is kept."""

    lake: Lake
    config: TrainConfig
    dataset: str
    version: int
    cascade: CascadeSettings  # with the width of the dataset's text
    text: dict[str, Any] | None  # the encoder's settings
    columns: tuple[str, ...]

    @property
    def id(self) -> str:
        said = f"{self.config.hash} {self.dataset}@{self.version}"
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    @property
    def url(self) -> str:
        return storage.join(self.lake.url, TRAININGS, f"{self.config.name}-{self.id[:12]}")

    def stage_url(self, stage: int) -> str:
        return storage.join(self.url, f"stage-{stage + 1}")


@dataclass
class Watch:
    """Who is told how a training gets on."""

    on_stage: Callable[[int, TrainSettings, int, float], None] = lambda stage, settings, step, done: None
    on_step: Callable[[int, Told, float], None] = lambda stage, told, done: None


@dataclass
class Ended:
    """What a training came to."""

    trained: Trained | None  # none if only some stages were asked for
    stages: dict[int, dict[str, float]] = field(default_factory=dict)  # steps, seconds, loss of those trained now
    url: str = ""


def planned(lake: Lake, config: TrainConfig, dataset: str, version: int | None = None) -> Training:
    """The training of a dataset version, after a look at whether it can be."""
    known = versions(lake, dataset)
    if not known:
        raise DatasetNotFound(f"{dataset} has no version yet. Build it: imagen build RECIPE --lake {lake.url}")
    chosen = next((one for one in known if version in (None, one.version)), None)
    if chosen is None:
        raise DatasetVersionNotFound(
            f"{dataset}@{version} does not exist in {lake.url}; newest is {dataset}@{known[0].version}. "
            f"List versions: imagen versions {dataset}"
        )
    columns = tuple(lake.table(f"datasets/{dataset}", chosen.version).schema().names)
    text, cascade = None, config.model.model_copy(update={"text_width": None})
    if config.text is not None:
        text, width = text_of(lake, chosen, config.text, columns)
        asked = config.cascade.text_width if config.cascade else None
        if asked not in (None, width):
            raise TextNotUsable(
                f"the embeddings {config.text!r} of {dataset}@{chosen.version} are {width} wide, and the cascade reads "
                f"{asked}: correct cascade.text_width, or build the dataset with another encoder"
            )
        cascade = cascade.model_copy(update={"text_width": width})
    return Training(lake, config, dataset, chosen.version, cascade, text, columns)


def text_of(lake: Lake, version: Version, column: str, columns: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """The settings of the encoder whose embeddings a dataset version has, with its table, and their width."""
    if f"{column}_embedding" not in columns:
        there = [name.removesuffix("_embedding") for name in columns if name.endswith("_embedding")]
        raise TextNotUsable(
            f"{version.dataset}@{version.version} has no embeddings {column!r}, it has {', '.join(there) or 'none'}: "
            f"build it with embed.{column} in its recipe, or say text: null to train without captions"
        )
    settings = EncoderSettings(**version.record["recipe"]["embed"][column])
    reader = Reader(lake, version.dataset, version.version, columns=(column,), shuffle=False, rank=0, world=1)
    width = next((one[column].shape[1] for one in reader if one[column] is not None and len(one[column])), None)
    if width is None:
        raise TextNotUsable(f"no sample of {version.dataset}@{version.version} has an embedding {column!r}")
    return {**settings.model_dump(mode="json"), "table": version.record["embeddings"][column]}, width


def train(training: Training, stages: list[int] | None = None, watch: Watch | None = None, cpu: bool = False) -> Ended:
    """Train all stages in order, or some; the model is written when the last of all is done."""
    watch = watch or Watch()
    ended = Ended(model_of(training.lake, training.id), url=training.url)
    if ended.trained is not None:
        return ended
    here = PartialState(cpu=cpu)
    asked = stages if stages is not None else range(len(training.cascade.stages))
    for stage in asked:
        training.config.training(stage).share(here.num_processes)
    if here.is_main_process:
        about = {"dataset": f"{training.dataset}@{training.version}", "config": training.config.model_dump(mode="json")}
        storage.write(storage.join(training.url, ABOUT), json.dumps(about, indent=2).encode())
    with stopping() as stop:
        for stage in asked:
            ended.stages[stage] = train_stage(training, stage, watch, stop, cpu)
    with here.main_process_first():
        ended.trained = model_of(training.lake, training.id) or finish(training)
    return ended


def train_stage(training: Training, stage: int, watch: Watch, stop: list[bool], cpu: bool = False) -> dict[str, float]:
    """One stage to its end, from its last checkpoint if there is one."""
    settings, place = training.config.training(stage), training.stage_url(stage)
    run = begun(training, stage, cpu)
    main = run.accelerator.is_main_process
    checkpoints, measures = _checkpoints(training, stage), Measures(storage.join(place, "measures"))
    state = told(checkpoints.newest() if main else None)
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
            measures.note(run.step, measured(run, step))
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


def _advanced(run: Run, stage: int, measures: Measures) -> Told:
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


def begun(training: Training, stage: int, cpu: bool = False) -> Run:
    """A stage before its first step."""
    config, settings, own = training.config, training.config.training(stage), training.cascade.stages[stage]
    torch.manual_seed(settings.seed)
    AcceleratorState._reset_state(reset_partial_state=True)  # it has one precision a process, our stages may differ
    # Else DDP lays its gradients out anew after the first step of a sitting, and adds them up in another order.
    same = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=cpu, kwargs_handlers=[same])
    unet = UNet(**training.cascade.unet(stage))
    if config.init_from:
        begin_from(config.init_from, training, stage, unet)
    if config.lora:
        add_lora(unet, config.lora.rank, config.lora.alpha)
    for name, parameter in unet.named_parameters():
        if any(fnmatch(name, pattern) for pattern in config.freeze):
            parameter.requires_grad = False
    small = training.cascade.stages[stage - 1].resolution if stage else None
    lesson = Lesson(Diffusion(own.diffusion, own.resolution), small, own.crop)
    squares = Squares(_reader(training, stage, seed=settings.seed, drop_uneven=True), own.resolution, config.fit)
    batches = Endless(squares, settings.share(accelerator.num_processes), config.text, settings.workers)
    return Run(unet, lesson, batches, settings, accelerator)


def begin_from(where: str, training: Training, stage: int, unet: UNet) -> None:
    """Weights of a trained model's stage of the same size."""
    model = Imagen.from_pretrained(where, training.lake.url)
    theirs = next((one for one in model.stages if one.side == training.cascade.stages[stage].resolution), None)
    there, here = model.config.text or {}, training.text or {}
    if there.get("table") != here.get("table"):
        raise TextNotUsable(
            f"{where} reads embeddings of {there.get('table')}, and {training.dataset}@{training.version} has those of "
            f"{here.get('table')}: build the dataset with the model's encoder"
        )
    if theirs is None:
        return
    check_shapes(where, theirs.unet.state_dict(), unet.state_dict())
    unet.load_state_dict(theirs.unet.state_dict())


def finish(training: Training) -> Trained | None:
    """The averaged weights of every stage become a model of the lake, once all are at their ends."""
    unets, stages = [], {}
    for stage in range(len(training.cascade.stages)):
        state = _checkpoints(training, stage).newest(("unet", "ema"))
        if state is None or not state.over:
            return None
        unet = UNet(**training.cascade.unet(stage))
        if training.config.lora:
            add_lora(unet, training.config.lora.rank, training.config.lora.alpha)
        unet.load_state_dict(state.tensors["unet"] | state.tensors["ema"])
        if training.config.lora:
            merge_lora(unet)
        unets.append(unet.eval())
        stages[f"stage-{stage + 1}"] = {"steps": state.step, "seconds": state.more["seconds"]}
    model = pipeline_of(training.cascade, training.config.sampling, training.text, unets)
    lineage = {"dataset": training.dataset, "version": training.version, "stages": stages}
    return add_model(training.lake, training.config, training.id, model, lineage)


def measured(run: Run, told: Told) -> dict[str, float]:
    """What is noted of a step."""
    device = run.accelerator.device
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    values = {
        "loss": told.loss,
        "gradient_norm": told.gradient,
        "learning_rate": told.rate,
        "samples_per_second": run.settings.batch / told.seconds,
        "data_wait": told.waited / told.seconds,
        "memory_bytes": float(memory),
        "skipped": float(run.skipped),
    }
    values |= {f"error/noise_{at}": error for at, error in enumerate(told.errors) if error is not None}
    return {name: value for name, value in values.items() if math.isfinite(value)}  # JSON knows no others


def draw_grid(training: Training, run: Run, stage: int) -> None:
    """What the stage makes of the first samples' captions, beside their pictures."""
    url = storage.join(training.stage_url(stage), GRIDS, f"step-{run.step:09d}.png")
    reader = _reader(training, stage, shuffle=False, rank=0, world=1)  # the same on every process
    write_grid(url, run, reader, training.config.text, training.config.fit)


@contextmanager
def stopping() -> Iterator[list[bool]]:
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


def _reader(training: Training, stage: int, **how: Any) -> Reader:
    side = training.cascade.stages[stage].resolution
    columns = [picture_column(training.columns, side), *([training.config.text] if training.config.text else [])]
    return Reader(training.lake, training.dataset, training.version, columns=tuple(columns), **how)


def _checkpoints(training: Training, stage: int) -> Checkpoints:
    settings = training.config.training(stage)
    url = storage.join(training.stage_url(stage), "checkpoints")
    return Checkpoints(url, settings.keep, settings.for_good_every)
