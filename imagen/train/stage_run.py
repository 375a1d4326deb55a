"""A stage under training, a step at a time: short enough to be read in one go.

Whatever is random is drawn by `draws.py` from the seed and the step, samples come from the dataset's reader, and a
checkpoint holds all else, so that a run which was killed goes on as if it had not been.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from imagen.cascade.unet import UNet
from imagen.config.stage import TrainSettings
from imagen.errors import ConfigError, TrainingDiverged
from imagen.train.batches import BatchStream
from imagen.train.checkpoint import RunState, device_seconds
from imagen.train.distributed import broadcast_tensor, copy_into, full_tensor, gather_tensors, reshard
from imagen.train.loss import StageLoss, draw
from imagen.train.muon import Muon

NOT_FINITE = 20  # steps in a row without a finite loss: the run is stopped
BUCKETS = 10  # noise levels that losses are told by, the first with the least noise


@dataclass
class StepResult:
    """What is said of a step."""

    step: int
    loss: float
    gradient: float
    rate: float
    seconds: float
    waited: float  # of these, for data
    errors: list[float | None]  # mean squared error of each bucket of noise; none where no sample fell
    stop: bool = False  # a process was told to stop


@dataclass
class Run:
    """A stage under training: what a checkpoint holds, and what it is made with."""

    unet: UNet
    lesson: StageLoss
    batches: BatchStream
    settings: TrainSettings
    accelerator: Accelerator
    step: int = 0
    skipped: int = 0
    spoilt: int = 0  # steps without a finite loss, in a row
    seconds: float = 0.0  # that its steps took, over all sittings, as the processes agreed
    device_seconds: float = 0.0  # the same of all processes together
    unsaid: float = 0.0  # what this process has not told the others of
    stop: bool = False  # this process was told to stop

    def __post_init__(self) -> None:
        settings = self.settings
        self.share = settings.samples_per_process(self.accelerator.num_processes)
        parts = self.accelerator.distributed_type == DistributedType.FSDP
        if parts and settings.optimizer != "adamw":
            raise ConfigError(f"FSDP does not go with {settings.optimizer}: leave out one of them")
        if settings.channels_last and not parts:  # torch's FSDP refuses it
            self.unet.to(memory_format=torch.channels_last)
        self.unet.gradient_checkpointing = settings.gradient_checkpointing
        optimizer = build_optimizer(settings, self.unet)
        self.model, self.optimizer = self.accelerator.prepare(self.unet, optimizer)
        self.called = torch.compile(self.model) if settings.compile else self.model
        self.ema = EMAModel(self.unet.parameters(), settings.ema, use_ema_warmup=True, power=0.75, foreach=not parts)
        self.ema.to(self.accelerator.device)

    def places(self, part: int) -> range:
        """Where these samples are in the step's whole batch."""
        first = (self.accelerator.process_index * self.settings.accumulate + part) * self.share
        return range(first, first + self.share)

    @property
    def done(self) -> float:
        """The part of the training that is behind us, by its minutes or its steps."""
        minutes = self.settings.minutes
        return self.step / self.settings.steps if minutes is None else self.seconds / (60 * minutes)

    def advance(self) -> StepResult:
        """One step."""
        began, waited = time.perf_counter(), 0.0
        settings, accelerator = self.settings, self.accelerator
        rate = settings.learning_rate_at(self.step, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums = torch.zeros(3 + 2 * BUCKETS)  # loss, who was told to stop, seconds; errors and samples of each bucket
        sums[1] = self.stop
        for part in range(settings.accumulate):
            asked = time.perf_counter()
            batch = next(self.batches).to(accelerator.device)
            waited += time.perf_counter() - asked
            drawn = draw(
                settings.seed, self.step, self.places(part), settings.batch, self.lesson.image_shape(), settings.drop
            )
            last = part == settings.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model), accelerator.autocast():
                errors, weights = self.lesson.errors(self.called, batch, drawn.to(accelerator.device))
                share = (weights * errors).mean() / settings.accumulate
                self.batches.read_ahead()
                accelerator.backward(share)
            bucket = 3 + (drawn.times * BUCKETS).long().clamp(max=BUCKETS - 1)
            sums[0] += share.detach().cpu()
            sums.index_add_(0, bucket, errors.detach().float().cpu())
            sums.index_add_(0, bucket + BUCKETS, torch.ones(len(bucket)))
        met = time.perf_counter()
        sums[2] = self.unsaid + met - began
        sums = accelerator.reduce(sums.to(accelerator.device), "mean").cpu()
        loss, (of, samples) = float(sums[0]), sums[3:].view(2, BUCKETS).tolist()
        self.seconds += float(sums[2])
        self.device_seconds += float(sums[2]) * accelerator.num_processes
        gradient = float(full_tensor(accelerator.clip_grad_norm_(self.unet.parameters(), settings.clip)))
        self.step += 1
        self._learn(math.isfinite(loss) and math.isfinite(gradient))
        ended = time.perf_counter()
        self.unsaid, seconds = ended - met, ended - began
        told = [error / count if count else None for error, count in zip(of, samples, strict=True)]
        return StepResult(self.step, loss, gradient, rate, seconds, waited, told, bool(sums[1]))

    def _learn(self, finite: bool) -> None:
        if finite:
            self.optimizer.step()
            self.ema.step(self.unet.parameters())
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # of fp16: a smaller scale is what mends it
        self.optimizer.zero_grad(set_to_none=True)
        self.spoilt = 0 if finite else self.spoilt + 1
        self.skipped += not finite
        if self.spoilt >= NOT_FINITE:
            raise TrainingDiverged(
                f"no finite loss in the last {NOT_FINITE} steps up to {self.step}: lower the learning rate "
                f"({self.settings.learning_rate:g}), clip gradients closer ({self.settings.clip:g}), or use bf16"
            )

    @contextmanager
    def averaged(self) -> Iterator[UNet]:
        """The model with its averaged weights, which are what is kept of a training."""
        parameters = list(self.unet.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self.unet.eval()
        try:
            yield self.unet
        finally:
            reshard(self.unet)
            self.ema.restore(parameters)
            self.unet.train()

    def state(self) -> RunState:
        """All that a checkpoint holds, on the main process. To be asked by every one at once."""
        named = dict(self.unet.named_parameters())
        learnt = {
            f"{name}.{what}": value
            for name, parameter in named.items()
            for what, value in self.optimizer.state.get(parameter, {}).items()
        }
        scaler = self.accelerator.scaler
        return RunState(
            self.step,
            {
                "unet": gather_tensors(self.unet.state_dict()),
                "ema": gather_tensors(dict(zip(named, self.ema.shadow_params, strict=True))),
                "optimizer": gather_tensors(learnt),
            },
            {
                "batches": gather_object([self.batches.state_dict()]),
                "skipped": self.skipped,
                "spoilt": self.spoilt,
                "seconds": self.seconds,
                "device_seconds": self.device_seconds,
                "ema_steps": self.ema.optimization_step,
                "scaler": scaler and scaler.state_dict(),
                "settings": self.settings.model_dump(),
            },
        )

    @torch.no_grad()
    def load(self, state: RunState) -> None:
        """Go on from a checkpoint. To be asked by every process at once, as `told` by the main one."""
        parameters, more = dict(self.unet.named_parameters()), state.more
        for name, place in self.unet.state_dict().items():
            copy_into(place, broadcast_tensor(state.tensors["unet"][name]))
        for name, average in zip(parameters, self.ema.shadow_params, strict=True):
            copy_into(average, broadcast_tensor(state.tensors["ema"][name]))
        fused = bool(self.optimizer.defaults.get("fused"))
        self.optimizer.state.clear()
        for key, value in state.tensors["optimizer"].items():
            name, _, what = key.rpartition(".")
            self.optimizer.state[parameters[name]][what] = to_optimizer_layout(
                what, broadcast_tensor(value), parameters[name], fused
            )
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(more["scaler"])
        self.batches.load_state_dicts(more["batches"])
        self.ema.optimization_step = more["ema_steps"]
        self.step, self.skipped, self.spoilt = state.step, more["skipped"], more["spoilt"]
        self.seconds, self.unsaid = more["seconds"], 0.0
        self.device_seconds = device_seconds(more)


def to_optimizer_layout(what: str, value: Tensor, of: nn.Parameter, fused: bool) -> Tensor:
    """What an optimizer holds of a parameter, as it lies there: beside it, but for the count of steps if not fused."""
    if what == "step" and not fused:
        return value.cpu()
    if value.shape == of.shape:
        return copy_into(torch.empty_like(of, dtype=value.dtype), value)
    return value.to(of.device)


def build_optimizer(settings: TrainSettings, unet: nn.Module) -> torch.optim.Optimizer:
    named = {name: one for name, one in unet.named_parameters() if one.requires_grad}
    learning = list(named.values())
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(learning, settings.learning_rate, weight_decay=settings.weight_decay)
    rest = {"betas": (0.9, 0.99), "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "muon":  # between the levels; what goes into them and comes out is AdamW's
        inner = {name: x for name, x in named.items() if x.dim() > 1 and name.startswith(("down", "middle", "up"))}
        outer = [x for name, x in named.items() if name not in inner]
        return Muon(inner.values(), outer, settings.learning_rate, **rest)
    return torch.optim.AdamW(learning, settings.learning_rate, **rest)
