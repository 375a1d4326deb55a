"""What a training is made from: a cascade and how each of its stages is trained. YAML holds values, never code."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.build.yaml_file import first_wrong, read_values
from data.pictures.square import Fit
from imagen.cascade.settings import SampleSettings
from imagen.config.cascade import CascadeSettings
from imagen.config.gate import Gate
from imagen.config.presets import PRESETS, Preset, cascade_of_size, training_of_size
from imagen.config.stage import TrainSettings
from imagen.errors import ConfigError


class LoraSettings(BaseModel):
    """Low-rank changes of a trained model's attention (arXiv 2106.09685), merged into it at the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1)
    alpha: int = Field(8, ge=1)


class TrainConfig(BaseModel):
    """What the owner of a model writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the model's name")
    preset: Literal["tiny", "small", "imagen-2b"] | None = Field(None, description="a cascade by name")
    size: int | None = Field(None, ge=8, multiple_of=8, description="the dial: another size than the preset's")
    resolutions: tuple[int, ...] | None = Field(None, description="of each stage, with `size`")
    cascade: CascadeSettings | None = Field(None, description="a cascade spelled out, instead of a preset")
    text: str | None = Field("t5", description="the dataset's embeddings that are read; null: train without captions")
    mix: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        exclude_if=lambda mix: not mix,  # configurations that don't say it keep their hash
        description="other embeddings by the same encoder, and the share of samples read by each: {t5_new: 0.5}",
    )
    fit: Fit = Field("crop", description="how a picture becomes a square")
    train: TrainSettings = Field(TrainSettings(), description="of every stage, where it differs from the size's rules")
    stages: tuple[TrainSettings, ...] = Field((), description="of each stage, where it differs")
    sample: tuple[SampleSettings, ...] = Field((), description="how each stage makes pictures unless told otherwise")
    init_from: str | None = Field(None, description="a trained model to go on from: a folder, URL, or NAME/NUMBER")
    freeze: tuple[str, ...] = Field((), description="patterns of parameters that stay as they were: down.*")
    lora: LoraSettings | None = Field(None, description="train low-rank changes alone; needs init_from")
    gate: Gate = Field(Gate(), description="what a model must be to become the champion")

    @field_validator("name")
    @classmethod
    def _speakable(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError("a model's name has lower-case letters, digits, - and _, and begins with a letter")
        return name

    @model_validator(mode="after")
    def _one_cascade(self) -> "TrainConfig":
        if (self.preset is None) == (self.cascade is None):
            raise ValueError("say either preset (tiny, small, imagen-2b) or cascade")
        if self.cascade is not None and (self.size or self.resolutions):
            raise ValueError("size and resolutions change a preset; a cascade that is spelled out has its own")
        if self.mix and (self.text is None or self.text in self.mix or sum(self.mix.values()) > 1):
            raise ValueError("mix names other embeddings than text does, with shares that are 1 or less together")
        if self.lora and not self.init_from:
            raise ValueError("lora changes a trained model: say which with init_from")
        for name in ("stages", "sample"):
            if len(getattr(self, name)) > len(self.resolved_cascade.stages):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries for {len(self.resolved_cascade.stages)} models"
                )
        return self

    @property
    def _preset(self) -> Preset | None:
        return PRESETS[self.preset] if self.preset else None

    @property
    def resolved_cascade(self) -> CascadeSettings:
        """The cascade, but for the width of its text, which is the dataset's."""
        preset = self._preset
        if preset is None:
            assert self.cascade is not None
            return self.cascade
        if self.size is None and self.resolutions is None:
            return preset.cascade
        return cascade_of_size(
            self.size or preset.size, self.resolutions or preset.resolutions, preset.cascade.text_width
        )

    def training(self, stage: int) -> TrainSettings:
        """Of one stage: the size's rules, changed by `train`, changed by the stage's own."""
        preset = self._preset
        size = self.size or (preset.size if preset else self.resolved_cascade.stages[0].unet.channels[0])
        told = training_of_size(size)
        for changed in (self.train, *self.stages[stage : stage + 1]):
            told |= {name: getattr(changed, name) for name in changed.model_fields_set}
        return TrainSettings(**told)

    @property
    def sampling(self) -> tuple[SampleSettings, ...]:
        """Of each stage."""
        return self.sample + tuple(SampleSettings() for _ in self.resolved_cascade.stages[len(self.sample) :])

    @property
    def hash(self) -> str:
        """Of all that a training follows from: what is asked of the model afterwards is no part of it."""
        return hashlib.sha256(self.model_dump_json(exclude={"gate"}).encode()).hexdigest()


def with_time_budget(config: TrainConfig, minutes: float, base: float) -> TrainConfig:
    """The same, for so long in all, of which the base model gets a share and those that enlarge the rest alike."""
    others = len(config.resolved_cascade.stages) - 1
    each = [minutes * base, *([minutes * (1 - base) / others] * others)] if others else [minutes]
    own = [*config.stages, *([TrainSettings()] * len(each))][: len(each)]
    stages = tuple(one.model_copy(update={"minutes": part}) for one, part in zip(own, each, strict=True))
    return config.model_copy(update={"stages": stages})


def load_config(
    name: str, changes: dict[str, Any] | None = None, training: dict[str, Any] | None = None
) -> TrainConfig:
    """A configuration by file, or a preset's by its name; `changes` take the place of what it says, `training` of what
    it says of every stage.
    """
    path = Path(name)
    file = path.suffix in (".yaml", ".yml")
    there = path.exists() if file else name in PRESETS
    if not there:
        raise ConfigError(f"configuration {name} does not exist. Give a .yaml file or one of: {', '.join(PRESETS)}")
    if not file:
        text = f"name: {name}\npreset: {name}\n"
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration {name} can't be read: {error}") from None
    values, nodes = read_values(text, name, "configuration: it must be a mapping with name and preset", ConfigError)
    values |= changes or {}
    if training:
        values["train"] = {**(values.get("train") or {}), **training}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_wrong(error, name, nodes)) from None
