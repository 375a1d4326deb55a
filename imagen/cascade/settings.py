"""Settings for adding and removing noise. They are plain values, so reading a configuration does not load torch."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Sampler = Literal["dpm", "ddim", "ddpm"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


class SampleSettings(BaseModel):
    """Settings for sampling a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: Sampler = Field("dpm", description="dpm: DPM-Solver++; ddim; ddpm: the paper's ancestral sampler")
    steps: int = Field(30, ge=1, description="sampling steps")
    guidance: float = Field(5.0, ge=1, description="scale of classifier-free guidance; 1: none")
    interval: tuple[float, float] = Field((0.0, 1.0), description="times with guidance, from 0 (image) to 1 (noise)")
    rescale: float = Field(
        0.0, ge=0, le=1, description="how far the standard deviation of the guided image is set back to the unguided"
    )
    threshold: Literal["dynamic", "static", "none"] = Field(
        "dynamic", description="how predicted images are clipped (arXiv 2205.11487, section 2.3)"
    )
    percentile: float = Field(0.95, gt=0, le=1, description="of absolute values, for the dynamic threshold")
    level: float = Field(0.1, ge=0, le=1, description="noise level on the low-resolution image")


class DiffusionSettings(BaseModel):
    """The diffusion process, which is the same in training and sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    objective: Literal["v", "eps", "x0"] = Field("v", description="prediction target: velocity, noise or image")
    schedule: Literal["shifted", "cosine", "linear"] = Field(
        "shifted", description="noise schedule; shifted: cosine, with more noise for images of more than 64 pixels"
    )
    zero_terminal_snr: bool = Field(True, description="whether the last step is pure noise (arXiv 2305.08891)")
    min_snr: float | None = Field(
        5.0, gt=0, description="gamma of Min-SNR weighting (arXiv 2303.09556); null: all steps have equal weight"
    )
    steps: int = Field(1000, ge=2, description="steps of the noise schedule")

    @model_validator(mode="after")
    def _eps_needs_signal(self) -> "DiffusionSettings":
        if self.objective == "eps" and self.zero_terminal_snr:
            raise ValueError("objective eps can't be trained on pure noise: set zero_terminal_snr to false")
        return self
