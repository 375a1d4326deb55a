"""A stage under training, a step at a time: short enough to be read in one go.

Whatever is random is drawn by `draws.py` from the seed and the step, samples come from the dataset's reader, and a
checkpoint holds all else, so that a run which was killed goes on as if it had not been.
"""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from imagen.batches import Endless
from imagen.checkpoint import State
from imagen.config import TrainSettings
from imagen.draws import draw
from imagen.errors import TrainingDiverged
from imagen.lesson import Lesson
from imagen.unet import UNet

NOT_FINITE = 20  # steps in a row without a finite loss: the run is stopped


@dataclass
class Told:
    """What is said of a step."""

    step: int
    loss: float
    gradient: float
    rate: float
    seconds: float
    waited: float  # of these, for data


@dataclass
class Run:
    """A stage under training: what a checkpoint holds, and what it is made with."""

    unet: UNet
    lesson: Lesson
    batches: Endless
    settings: TrainSettings
    accelerator: Accelerator
    step: int = 0
    skipped: int = 0
    spoilt: int = 0  # steps without a finite loss, in a row

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.unet.gradient_checkpointing = settings.gradient_checkpointing
        optimizer = optimizer_of(settings, self.unet)
        self.model, self.optimizer = self.accelerator.prepare(self.unet, optimizer)
        self.called = torch.compile(self.model) if settings.compile else self.model
        self.ema = EMAModel(self.unet.parameters(), settings.ema, use_ema_warmup=True, power=0.75)
        self.ema.to(self.accelerator.device)

    @property
    def share(self) -> int:
        """Samples of a step that this process takes at once."""
        return self.settings.batch // self.accelerator.num_processes // self.settings.accumulate

    def places(self, part: int) -> range:
        """Where these samples are in the step's whole batch."""
        first = (self.accelerator.process_index * self.settings.accumulate + part) * self.share
        return range(first, first + self.share)

    def advance(self) -> Told:
        """One step."""
        began, waited, loss = time.perf_counter(), 0.0, 0.0
        settings, accelerator = self.settings, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.step)
        for part in range(settings.accumulate):
            asked = time.perf_counter()
            batch = next(self.batches).to(accelerator.device)
            waited += time.perf_counter() - asked
            drawn = draw(
                settings.seed, self.step, self.places(part), settings.batch, self.lesson.shape(), settings.drop
            )
            last = part == settings.accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.model), accelerator.autocast():
                errors, weights = self.lesson.errors(self.called, batch, drawn.to(accelerator.device))
                share = (weights * errors).mean() / settings.accumulate
                accelerator.backward(share)
            loss += float(accelerator.reduce(share.detach(), "mean"))
        gradient = float(accelerator.clip_grad_norm_(self.unet.parameters(), settings.clip))
        self._learn(math.isfinite(loss) and math.isfinite(gradient))
        self.step += 1
        return Told(self.step, loss, gradient, settings.rate(self.step - 1), time.perf_counter() - began, waited)

    def _learn(self, finite: bool) -> None:
        if finite:
            self.optimizer.step()
            self.ema.step(self.unet.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        self.spoilt = 0 if finite else self.spoilt + 1
        self.skipped += not finite
        if self.spoilt >= NOT_FINITE:
            raise TrainingDiverged(
                f"no finite loss in the last {NOT_FINITE} steps up to {self.step}: lower the learning rate "
                f"({self.settings.learning_rate:g}), clip gradients closer ({self.settings.clip:g}), or use bf16"
            )

    def state(self) -> State:
        """All that a checkpoint holds. To be asked by every process at once."""
        named = [name for name, _ in self.unet.named_parameters()]
        states = gather_object([self.batches.state_dict()])
        return State(
            self.step,
            {
                "unet": dict(self.unet.state_dict()),
                "ema": dict(zip(named, self.ema.shadow_params, strict=True)),
                "optimizer": packed(self.optimizer.state_dict()["state"]),
            },
            {
                "batches": states,
                "skipped": self.skipped,
                "ema_steps": self.ema.optimization_step,
                "settings": self.settings.model_dump(),
            },
        )

    def load(self, state: State) -> None:
        """Go on from a checkpoint."""
        self.unet.load_state_dict(state.tensors["unet"])
        for (name, _), average in zip(self.unet.named_parameters(), self.ema.shadow_params, strict=True):
            average.data.copy_(state.tensors["ema"][name])
        self.ema.optimization_step = state.more["ema_steps"]
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": unpacked(state.tensors["optimizer"])})
        self.batches.load_state_dicts(state.more["batches"])
        self.step, self.skipped = state.step, state.more["skipped"]


def packed(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """An optimizer's state as named tensors."""
    return {f"{number}.{name}": value for number, one in state.items() for name, value in one.items()}


def unpacked(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, what = name.partition(".")
        state.setdefault(int(number), {})[what] = value
    return state


def optimizer_of(settings: TrainSettings, unet: nn.Module) -> torch.optim.Optimizer:
    learning = [one for one in unet.parameters() if one.requires_grad]
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(learning, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(learning, settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
