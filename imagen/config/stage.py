"""Settings for training one stage."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from imagen.errors import ConfigError


class TrainSettings(BaseModel):
    """Settings for training a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1, description="steps of the training")
    minutes: float | None = Field(None, gt=0, description="minutes of the training, instead of steps")
    batch: int = Field(64, ge=1, description="samples of a step, over all processes and accumulated parts")
    accumulate: int = Field(1, ge=1, description="parts in which each process computes its share of a batch")
    learning_rate: float = Field(3e-4, gt=0, description="the largest learning rate")
    warmup: int = Field(500, ge=0, description="steps until the learning rate is reached")
    decay: Literal["cosine", "none"] = Field("cosine", description="of the learning rate after the warmup")
    optimizer: Literal["adamw", "muon", "adafactor"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="the largest norm of the gradient")
    drop: float = Field(0.1, ge=0, le=1, description="share of captions that are dropped, for guidance")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights, reached after a warmup")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision; no: float32")
    channels_last: bool = Field(True, description="memory format of images: a fifth faster; ignored with FSDP")
    compile: bool = Field(False, description="whether the model is compiled")
    gradient_checkpointing: bool = Field(False, description="whether activations are recomputed to save memory")
    workers: int = Field(0, ge=0, description="processes that read and decode samples")
    seed: int = 0
    checkpoint_every: int = Field(1000, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="how many of the last checkpoints are kept")
    for_good_every: int | None = Field(
        None, ge=1, description="checkpoints of multiples of so many steps are always kept; null: none"
    )
    grid_every: int | None = Field(1000, ge=1, description="steps between grids of sample images; null: no grids")

    def samples_per_process(self, processes: int) -> int:
        """Return the number of samples that each process computes at once.

        Raises:
            ConfigError: the batch can't be divided among the processes.
        """
        parts = processes * self.accumulate
        if self.batch % parts:
            raise ConfigError(
                f"a batch of {self.batch} can't be divided among {processes} processes with accumulate: "
                f"{self.accumulate}: set batch to a multiple of {parts}, or change accumulate"
            )
        return self.batch // parts

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Return the learning rate of a step whose progress is from 0 to 1. It ends at 2 % of the largest rate."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "none":
            return self.learning_rate * ramp
        return self.learning_rate * ramp * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)
