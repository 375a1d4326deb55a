"""How one stage is trained."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from imagen.errors import ConfigError


class TrainSettings(BaseModel):
    """How a stage is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1)
    minutes: float | None = Field(None, gt=0, description="train for so long instead of so many steps")
    batch: int = Field(64, ge=1, description="samples of a step, over all processes and accumulations")
    accumulate: int = Field(1, ge=1, description="parts in which each process takes its share of a batch")
    learning_rate: float = Field(3e-4, gt=0)
    warmup: int = Field(500, ge=0, description="steps until the learning rate is reached")
    decay: Literal["cosine", "none"] = "cosine"
    optimizer: Literal["adamw", "muon", "adafactor"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="the largest norm of the gradient")
    drop: float = Field(0.1, ge=0, le=1, description="share of captions left out, for guidance")
    ema: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights, reached slowly")
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = Field(True, description="how pixels lie in memory: a fifth faster; not with FSDP")
    compile: bool = False
    gradient_checkpointing: bool = False
    workers: int = Field(0, ge=0, description="processes that read and decode samples")
    seed: int = 0
    checkpoint_every: int = Field(1000, ge=1, description="steps")
    keep: int = Field(2, ge=1, description="the last so many checkpoints are kept")
    for_good_every: int | None = Field(None, ge=1, description="steps of whose multiples checkpoints are kept for good")
    grid_every: int | None = Field(
        1000, ge=1, description="steps after which pictures are made to look at; null: never"
    )

    def samples_per_process(self, processes: int) -> int:
        """Samples that each of so many processes takes at once."""
        least = processes * self.accumulate
        if self.batch % least:
            raise ConfigError(
                f"a batch of {self.batch} can't be shared by {processes} processes that take {self.accumulate} parts "
                f"each: let batch be a multiple of {least}, or change accumulate"
            )
        return self.batch // least

    def learning_rate_at(self, step: int, done: float) -> float:
        """The learning rate of a step, when a part of the training is behind us."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "none":
            return self.learning_rate * ramp
        return self.learning_rate * ramp * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
