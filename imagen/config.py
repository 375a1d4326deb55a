"""What a training is made from: values only, checked with line and field."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainSettings(BaseModel):
    """How a stage is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(10_000, ge=1)
    batch: int = Field(64, ge=1, description="samples of a step, over all processes and accumulations")
    accumulate: int = Field(1, ge=1, description="parts in which each process takes its share of a batch")
    learning_rate: float = Field(3e-4, gt=0)
    warmup: int = Field(500, ge=0, description="steps until the learning rate is reached")
    decay: Literal["cosine", "none"] = "cosine"
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="the largest norm of the gradient")
    drop: float = Field(0.1, ge=0, le=1, description="share of captions left out, for guidance")
    ema: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights, reached slowly")
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        ramp = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay == "none":
            return self.learning_rate * ramp
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * ramp * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, done))) / 2)
