"""The configuration of a model: its cascade and the training of each stage. The YAML file has values, never code."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.build.yaml_file import first_error_message, parse_yaml
from data.pictures.square import Fit
from imagen.cascade.settings import SampleSettings
from imagen.config.cascade import CascadeSettings
from imagen.config.gate import Gate
from imagen.config.presets import PRESETS, Preset, cascade_of_size, training_of_size
from imagen.config.stage import TrainSettings
from imagen.errors import ConfigError


class LoraSettings(BaseModel):
    """LoRA: low-rank changes of a trained model's attention (arXiv 2106.09685), merged into it at the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1, description="rank of the changes")
    alpha: int = Field(8, ge=1, description="scale of the changes, times the rank")


class TrainConfig(BaseModel):
    """The configuration that a model is trained from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the model's name")
    preset: Literal["tiny", "small", "imagen-2b"] | None = Field(None, description="a cascade by name")
    size: int | None = Field(
        None, ge=8, multiple_of=8, description="channels of the finest level, instead of the preset's; the rest follows"
    )
    resolutions: tuple[int, ...] | None = Field(
        None, description="pixels of a side of each stage, instead of the preset's"
    )
    cascade: CascadeSettings | None = Field(None, description="a cascade in all details, instead of a preset")
    text: str | None = Field("t5", description="the dataset's embeddings to train on; null: train without captions")
    mix: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        exclude_if=lambda mix: not mix,  # configurations without it keep their hash
        description="other embeddings of the same encoder, and the share of samples with each: {t5_new: 0.5}",
    )
    fit: Fit = Field("crop", description="how a picture becomes a square")
    train: TrainSettings = Field(TrainSettings(), description="changes for every stage of what follows from the size")
    stages: tuple[TrainSettings, ...] = Field((), description="changes for each stage")
    sample: tuple[SampleSettings, ...] = Field((), description="how each stage is sampled by default")
    init_from: str | None = Field(
        None, description="the model whose weights are the initial ones: a folder, a URL, or NAME/NUMBER"
    )
    freeze: tuple[str, ...] = Field((), description="patterns of parameters that are not trained: down.*")
    lora: LoraSettings | None = Field(None, description="train low-rank changes only; needs init_from")
    gate: Gate = Field(Gate(), description="the rules by which a model becomes the champion")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError("a model's name has lower-case letters, digits, - and _, and begins with a letter")
        return name

    @model_validator(mode="after")
    def _is_consistent(self) -> "TrainConfig":
        if (self.preset is None) == (self.cascade is None):
            raise ValueError("set either preset (tiny, small, imagen-2b) or cascade")
        if self.cascade is not None and (self.size or self.resolutions):
            raise ValueError("size and resolutions change a preset; leave them out with cascade")
        if self.mix and (self.text is None or self.text in self.mix or sum(self.mix.values()) > 1):
            raise ValueError("mix must name other embeddings than text, and its shares must not add up to more than 1")
        if self.lora and not self.init_from:
            raise ValueError("lora changes a trained model: name it with init_from")
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
        """The cascade that the configuration describes. Its text width is set when the dataset is known."""
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
        """Return the training settings of a stage.

        The defaults follow from its size. `train` changes them first, then the stage's own settings.
        """
        preset = self._preset
        size = self.size or (preset.size if preset else self.resolved_cascade.stages[0].unet.channels[0])
        values = training_of_size(size)
        for changes in (self.train, *self.stages[stage : stage + 1]):
            values |= {name: getattr(changes, name) for name in changes.model_fields_set}
        return TrainSettings(**values)

    @property
    def sampling(self) -> tuple[SampleSettings, ...]:
        """The default sampling settings of each stage."""
        return self.sample + tuple(SampleSettings() for _ in self.resolved_cascade.stages[len(self.sample) :])

    @property
    def hash(self) -> str:
        """The hash of everything that the trained weights depend on; the gate is left out."""
        return hashlib.sha256(self.model_dump_json(exclude={"gate"}).encode()).hexdigest()


def with_time_budget(config: TrainConfig, minutes: float, base_share: float) -> TrainConfig:
    """Return the configuration with a limit of minutes instead of steps.

    Args:
        minutes: the minutes for all stages together.
        base_share: the base model's share of the minutes; the other stages share the rest equally.
    """
    others = len(config.resolved_cascade.stages) - 1
    stage_minutes = [minutes * base_share, *([minutes * (1 - base_share) / others] * others)] if others else [minutes]
    settings = [*config.stages, *([TrainSettings()] * len(stage_minutes))]
    stages = []
    for stage, minutes_of_stage in zip(settings, stage_minutes, strict=False):
        stages.append(stage.model_copy(update={"minutes": minutes_of_stage}))
    return config.model_copy(update={"stages": tuple(stages)})


def load_config(
    name: str, changes: dict[str, Any] | None = None, training: dict[str, Any] | None = None
) -> TrainConfig:
    """Load a configuration.

    Args:
        name: a YAML file, or the name of a preset.
        changes: values that replace those of the file.
        training: values that replace those under `train`.

    Raises:
        ConfigError: the file does not exist, can't be read, or is not valid; the message names line and field.

    Example:
        load_config("tiny", {"name": "shapes"}, training={"steps": 500})
    """
    if Path(name).suffix in (".yaml", ".yml"):
        text = _read_text(name)
    elif name in PRESETS:
        text = f"name: {name}\npreset: {name}\n"
    else:
        raise ConfigError(_no_config(name))
    values, nodes = parse_yaml(text, name, "configuration: it must be a mapping with name and preset", ConfigError)
    values |= changes or {}
    if training:
        values["train"] = {**(values.get("train") or {}), **training}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_error_message(error, name, nodes)) from None


def _read_text(name: str) -> str:
    path = Path(name)
    if not path.exists():
        raise ConfigError(_no_config(name))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {name} can't be read: {error}") from None


def _no_config(name: str) -> str:
    return f"configuration {name} does not exist. Give a .yaml file or one of: {', '.join(PRESETS)}"
