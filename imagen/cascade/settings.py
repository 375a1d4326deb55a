"""How noise is put on pictures and taken off again, as values alone: reading a configuration loads no torch."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Sampler = Literal["dpm", "ddim", "ddpm"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


class SampleSettings(BaseModel):
    """How a stage is sampled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: Sampler = Field("dpm", description="dpm: DPM-Solver++; ddpm: the paper's ancestral")
    steps: int = Field(30, ge=1)
    guidance: float = Field(5.0, ge=1, description="classifier-free; 1: none")
    interval: tuple[float, float] = Field((0.0, 1.0), description="of time, 1 is noise: where there is guidance")
    rescale: float = Field(0.0, ge=0, le=1, description="how far the spread of what is guided is set back")
    threshold: Literal["dynamic", "static", "none"] = Field("dynamic", description="arXiv 2205.11487, section 2.3")
    percentile: float = Field(0.95, gt=0, le=1, description="of absolute values, by which dynamic thresholds go")
    level: float = Field(0.1, ge=0, le=1, description="of noise that is put on the smaller picture")


class DiffusionSettings(BaseModel):
    """What is the same in training and sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Literal["v", "eps", "x0"] = Field("v", description="what the model says: velocity, noise or picture")
    schedule: Literal["shifted", "cosine", "linear"] = Field(
        "shifted", description="of noise; shifted: cosine, with more noise the more pixels there are above 64"
    )
    zero_terminal_snr: bool = Field(True, description="the last step is noise alone (arXiv 2305.08891)")
    min_snr: float | None = Field(5.0, gt=0, description="Min-SNR's gamma (arXiv 2303.09556); none: all count alike")
    steps: int = Field(1000, ge=2, description="of the schedule that is trained on")

    @model_validator(mode="after")
    def _noise_says_nothing_of_noise_alone(self) -> "DiffusionSettings":
        if self.objective == "eps" and self.zero_terminal_snr:
            raise ValueError("in noise alone eps tells of no picture: set zero_terminal_snr to false")
        return self
