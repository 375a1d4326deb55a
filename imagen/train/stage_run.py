"""Trains one stage of the cascade, one step at a time.

Everything random is drawn in `loss.py` from the seed and the step, samples come from the dataset's reader, and a
checkpoint holds all other state. So a run that was killed and resumed continues exactly as if it had not been
interrupted.
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

MAX_NONFINITE_STEPS = 20  # in a row, after which a run is stopped
BUCKETS = 10  # ranges of noise levels that errors are reported by, the first with the least noise
STOP, SECONDS, ERRORS = 1, 2, 3  # places in the tensor that processes reduce after a step; 0 is the loss


@dataclass
class StepResult:
    """The measurements of a step. Apart from the times they are the same on every process."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    data_seconds: float  # of these, spent waiting for data
    bucket_errors: list[float | None]  # mean squared error of each bucket; None where no sample fell into it
    stop: bool = False  # whether a process was asked to stop


@dataclass
class Run:
    """The training run of one stage of the cascade."""

    unet: UNet
    stage_loss: StageLoss
    batches: BatchStream
    settings: TrainSettings
    accelerator: Accelerator
    step: int = 0
    skipped: int = 0  # steps without a finite loss
    nonfinite_steps: int = 0  # of these, the last ones in a row
    seconds: float = 0.0  # that all steps took, resumed runs included, as the processes agreed
    device_seconds: float = 0.0  # the same, summed over processes
    unshared_seconds: float = 0.0  # of this process, not yet part of `seconds`
    stop: bool = False  # whether this process was asked to stop

    def __post_init__(self) -> None:
        settings = self.settings
        self.batch_share = settings.samples_per_process(self.accelerator.num_processes)
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        if sharded and settings.optimizer != "adamw":
            raise ConfigError(f"FSDP does not work with optimizer: {settings.optimizer}. Set adamw, or leave out FSDP")
        if settings.channels_last and not sharded:  # torch's FSDP refuses it
            self.unet.to(memory_format=torch.channels_last)
        self.unet.gradient_checkpointing = settings.gradient_checkpointing
        optimizer = build_optimizer(settings, self.unet)
        self.model, self.optimizer = self.accelerator.prepare(self.unet, optimizer)
        self.compiled = torch.compile(self.model) if settings.compile else self.model
        self.ema = EMAModel(self.unet.parameters(), settings.ema, use_ema_warmup=True, power=0.75, foreach=not sharded)
        self.ema.to(self.accelerator.device)

    def places(self, part: int) -> range:
        """Return the places of this process's samples in the whole batch, for one part of gradient accumulation."""
        first = (self.accelerator.process_index * self.settings.accumulate + part) * self.batch_share
        return range(first, first + self.batch_share)

    @property
    def progress(self) -> float:
        """The share of the training that is done, measured in minutes or steps. The training ends at 1 or more."""
        minutes = self.settings.minutes
        return self.step / self.settings.steps if minutes is None else self.seconds / (60 * minutes)

    def advance(self) -> StepResult:
        """Make one step. A step without a finite loss or gradient changes no weights.

        Raises:
            TrainingDiverged: MAX_NONFINITE_STEPS steps in a row had no finite loss.
        """
        started, data_seconds = time.perf_counter(), 0.0
        settings, accelerator = self.settings, self.accelerator
        learning_rate = settings.learning_rate_at(self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = torch.zeros(ERRORS + 2 * BUCKETS)  # the errors of each bucket are followed by their counts
        sums[STOP] = self.stop
        for part in range(settings.accumulate):
            requested = time.perf_counter()
            batch = next(self.batches).to(accelerator.device)
            data_seconds += time.perf_counter() - requested
            places, shape = self.places(part), self.stage_loss.image_shape()
            draws = draw(settings.seed, self.step, places, settings.batch, shape, settings.drop)
            last = part == settings.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model), accelerator.autocast():
                errors, weights = self.stage_loss.errors(self.compiled, batch, draws.to(accelerator.device))
                loss_share = (weights * errors).mean() / settings.accumulate
                self.batches.read_ahead()
                accelerator.backward(loss_share)
            bucket = ERRORS + (draws.times * BUCKETS).long().clamp(max=BUCKETS - 1)
            sums[0] += loss_share.detach().cpu()
            sums.index_add_(0, bucket, errors.detach().float().cpu())
            sums.index_add_(0, bucket + BUCKETS, torch.ones(len(bucket)))
        reduced = time.perf_counter()
        sums[SECONDS] = self.unshared_seconds + reduced - started
        sums = accelerator.reduce(sums.to(accelerator.device), "mean").cpu()
        loss, (errors_of_buckets, counts) = float(sums[0]), sums[ERRORS:].view(2, BUCKETS).tolist()
        self.seconds += float(sums[SECONDS])
        self.device_seconds += float(sums[SECONDS]) * accelerator.num_processes
        gradient_norm = float(full_tensor(accelerator.clip_grad_norm_(self.unet.parameters(), settings.clip)))
        self.step += 1
        self._update_weights(math.isfinite(loss) and math.isfinite(gradient_norm))
        ended = time.perf_counter()
        self.unshared_seconds, seconds = ended - reduced, ended - started
        means = [error / count if count else None for error, count in zip(errors_of_buckets, counts, strict=True)]
        stop = bool(sums[STOP])
        return StepResult(self.step, loss, gradient_norm, learning_rate, seconds, data_seconds, means, stop)

    def _update_weights(self, finite: bool) -> None:
        if finite:
            self.optimizer.step()
            self.ema.step(self.unet.parameters())
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # of fp16: a smaller scale makes the next gradients finite
        self.optimizer.zero_grad(set_to_none=True)
        self.nonfinite_steps = 0 if finite else self.nonfinite_steps + 1
        self.skipped += not finite
        if self.nonfinite_steps >= MAX_NONFINITE_STEPS:
            raise TrainingDiverged(
                f"no finite loss in the last {MAX_NONFINITE_STEPS} steps up to {self.step}: lower learning_rate (now "
                f"{self.settings.learning_rate:g}), lower clip (now {self.settings.clip:g}), or set precision: bf16"
            )

    @contextmanager
    def averaged(self) -> Iterator[UNet]:
        """Use the averaged weights in the model inside the block. The trained model will have these weights."""
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
        """Return the state for a checkpoint, which is complete on the main process.

        Every process must call it at the same time.
        """
        parameters = dict(self.unet.named_parameters())
        optimizer = {}
        for name, parameter in parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                optimizer[f"{name}.{key}"] = value
        scaler = self.accelerator.scaler
        return RunState(
            self.step,
            {
                "unet": gather_tensors(self.unet.state_dict()),
                "ema": gather_tensors(dict(zip(parameters, self.ema.shadow_params, strict=True))),
                "optimizer": gather_tensors(optimizer),
            },
            {
                "batches": gather_object([self.batches.state_dict()]),
                "skipped": self.skipped,
                "spoilt": self.nonfinite_steps,
                "seconds": self.seconds,
                "device_seconds": self.device_seconds,
                "ema_steps": self.ema.optimization_step,
                "scaler": scaler and scaler.state_dict(),
                "settings": self.settings.model_dump(),
            },
        )

    @torch.no_grad()
    def load(self, state: RunState) -> None:
        """Continue from a checkpoint that `broadcast_state` gave to every process. All must call it together."""
        parameters, values = dict(self.unet.named_parameters()), state.values
        for name, tensor in self.unet.state_dict().items():
            copy_into(tensor, broadcast_tensor(state.tensors["unet"][name]))
        for name, average in zip(parameters, self.ema.shadow_params, strict=True):
            copy_into(average, broadcast_tensor(state.tensors["ema"][name]))
        fused = bool(self.optimizer.defaults.get("fused"))
        self.optimizer.state.clear()
        for path, value in state.tensors["optimizer"].items():
            name, _, key = path.rpartition(".")
            parameter = parameters[name]
            self.optimizer.state[parameter][key] = to_optimizer_layout(key, broadcast_tensor(value), parameter, fused)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.batches.load_state_dicts(values["batches"])
        self.ema.optimization_step = values["ema_steps"]
        self.step, self.skipped, self.nonfinite_steps = state.step, values["skipped"], values["spoilt"]
        self.seconds, self.unshared_seconds = values["seconds"], 0.0
        self.device_seconds = device_seconds(values)


def to_optimizer_layout(key: str, value: Tensor, parameter: nn.Parameter, fused: bool) -> Tensor:
    """Move a tensor of an optimizer's state to the place where the optimizer keeps it for this parameter.

    It gets the parameter's device, sharding and memory layout. A step count stays on the CPU unless the optimizer is
    fused.
    """
    if key == "step" and not fused:
        return value.cpu()
    if value.shape == parameter.shape:
        return copy_into(torch.empty_like(parameter, dtype=value.dtype), value)
    return value.to(parameter.device)


def build_optimizer(settings: TrainSettings, unet: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of the parameters that are trained."""
    trained = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    parameters = list(trained.values())
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    options = {"betas": (0.9, 0.99), "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.learning_rate, **options)
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in trained.items():  # Muon is for the matrices of levels; first and last layers are AdamW's
        inner = parameter.dim() > 1 and name.startswith(("down", "middle", "up"))
        (matrices if inner else others).append(parameter)
    return Muon(matrices, others, settings.learning_rate, **options)
