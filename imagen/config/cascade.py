"""What a cascade is: its stages, from the smallest pictures to the largest, and the shape of each stage's U-Net."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imagen.cascade.settings import DiffusionSettings


class UNetSettings(BaseModel):
    """A value for each level, the finest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, ...] = Field(min_length=1)
    blocks: tuple[int, ...]
    attend: tuple[bool, ...] = Field(description="levels whose pixels attend to each other")
    read: tuple[bool, ...] = Field(description="levels whose pixels attend to the text")
    width: int | None = Field(None, ge=8, description="of what time and text become; four times the first channels")
    efficient: bool = Field(False, description="pixels are merged before a level's convolutions (Efficient U-Net)")

    @model_validator(mode="after")
    def _a_value_for_each_level(self) -> "UNetSettings":
        for name in ("blocks", "attend", "read"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.channels)} levels")
        return self

    @property
    def multiple(self) -> int:
        """Of what the sides of pictures must be multiples: they are halved between levels."""
        return int(2 ** (len(self.channels) - 1 + self.efficient))


class StageSettings(BaseModel):
    """One model of the cascade: pictures of `resolution`, from noise or from those of the stage before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolution: int = Field(ge=8, description="pixels of a side")
    unet: UNetSettings
    diffusion: DiffusionSettings = DiffusionSettings()
    crop: int | None = Field(None, ge=8, description="pixels of a side that training sees; all if not given")

    @model_validator(mode="after")
    def _sides_can_be_halved(self) -> "StageSettings":
        for side in (self.resolution, self.crop or self.resolution):
            if side % self.unet.multiple:
                levels, multiple = len(self.unet.channels), self.unet.multiple
                raise ValueError(f"a U-Net of {levels} levels needs multiples of {multiple} pixels, not {side}")
        if (self.crop or 0) > self.resolution:
            raise ValueError(f"crop is {self.crop} pixels of pictures of {self.resolution}")
        return self


class CascadeSettings(BaseModel):
    """The base model and those that enlarge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[StageSettings, ...] = Field(min_length=1, max_length=3)
    text_width: int | None = Field(None, description="of the embeddings that are read; none: models that know no text")

    @model_validator(mode="after")
    def _grows(self) -> "CascadeSettings":
        sides = [stage.resolution for stage in self.stages]
        if sides != sorted(set(sides)):
            raise ValueError(f"each stage makes larger pictures than the one before, not {sides}")
        return self

    def unet_arguments(self, stage: int) -> dict[str, Any]:
        """The arguments of a stage's `UNet`."""
        own = self.stages[stage]
        more = {"resolution": own.resolution, "text_width": self.text_width, "enlarges": stage > 0}
        return own.unet.model_dump() | more
