"""The shape of a cascade: its stages, from the smallest images to the largest, and the U-Net of each."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imagen.cascade.settings import DiffusionSettings


class UNetSettings(BaseModel):
    """The shape of a U-Net. Lists have a value for each level, the finest first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, ...] = Field(min_length=1, description="channels of each level")
    blocks: tuple[int, ...] = Field(description="residual blocks of each level")
    attend: tuple[bool, ...] = Field(description="levels with self-attention over pixels")
    read: tuple[bool, ...] = Field(description="levels with cross-attention to the text")
    width: int | None = Field(
        None, ge=8, description="of time and text embeddings inside the model; null: four times the first channels"
    )
    efficient: bool = Field(False, description="whether levels downsample before their convolutions (Efficient U-Net)")

    @model_validator(mode="after")
    def _has_a_value_for_each_level(self) -> "UNetSettings":
        for name in ("blocks", "attend", "read"):
            if len(getattr(self, name)) != len(self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.channels)} levels")
        return self

    @property
    def multiple(self) -> int:
        """The number that divides the sides of images: they are halved between levels."""
        return int(2 ** (len(self.channels) - 1 + self.efficient))


class StageSettings(BaseModel):
    """One model of a cascade: images of `resolution`, made from noise or from the previous stage's images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resolution: int = Field(ge=8, description="pixels of a side")
    unet: UNetSettings
    diffusion: DiffusionSettings = DiffusionSettings()
    crop: int | None = Field(
        None, ge=8, description="pixels of a side of the crops that are trained on; null: no crops"
    )

    @model_validator(mode="after")
    def _sides_can_be_halved(self) -> "StageSettings":
        for side in (self.resolution, self.crop or self.resolution):
            if side % self.unet.multiple:
                levels, multiple = len(self.unet.channels), self.unet.multiple
                raise ValueError(f"a U-Net of {levels} levels needs multiples of {multiple} pixels, not {side}")
        if (self.crop or 0) > self.resolution:
            raise ValueError(f"crop is {self.crop} pixels, and images have {self.resolution}")
        return self


class CascadeSettings(BaseModel):
    """A base model and the super-resolution models after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[StageSettings, ...] = Field(min_length=1, max_length=3)
    text_width: int | None = Field(None, description="of the text embeddings; null: models without text")

    @model_validator(mode="after")
    def _sides_increase(self) -> "CascadeSettings":
        sides = [stage.resolution for stage in self.stages]
        if sides != sorted(set(sides)):
            raise ValueError(f"each stage makes larger images than the one before, not {sides}")
        return self

    def unet_arguments(self, stage: int) -> dict[str, Any]:
        """Return the arguments of a stage's `UNet`."""
        settings = self.stages[stage]
        context = {"resolution": settings.resolution, "text_width": self.text_width, "enlarges": stage > 0}
        return settings.unet.model_dump() | context
