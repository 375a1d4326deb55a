"""The settings of a text encoder."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.scorers import clip, pretrained

BUILT_IN = Path(__file__).parents[1] / "world" / "models" / "t5"


class EncoderSettings(BaseModel):
    """Settings of a text encoder: its model, its output, and how it runs.

    The device and the batch size do not change the embeddings, so they are not part of an encoder's id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: Literal["t5", "clip"] = Field(description="kind of the model")
    model: str = Field(
        description="'built-in', a folder, a T5's hub id (google/t5-v1_1-xxl), or an open_clip architecture (ViT-L-14)"
    )
    pretrained: str | None = Field(None, description="weights of an architecture: a file, or one of open_clip's tags")
    pooled: bool = Field(
        False, description="clip: one vector for a text, the one compared with pictures; else one for each token"
    )
    max_length: int = Field(
        128, ge=2, description="t5: longest caption in tokens, a longer one is cut; a CLIP model has its own limit"
    )
    dtype: Literal["float16", "bfloat16"] = Field("float16", description="type of the stored numbers")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="precision of the arithmetic")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    batch_tokens: int = Field(512, ge=1, description="tokens of a batch with padding (rows x width); more for a GPU")
    publish: bool = Field(
        True, description="add the embeddings to the dataset's columns; else they stay in their table"
    )
    of: str | None = Field(
        None,
        exclude_if=lambda of: of is None,  # so that recipes without it keep their hash
        description="score whose text is embedded, such as a captioner's; by default the pair's own caption",
    )

    @model_validator(mode="after")
    def _check_combination(self) -> "EncoderSettings":
        if self.encoder == "t5":
            if self.pretrained is not None or self.pooled:
                raise ValueError("`pretrained` and `pooled` are for encoder: clip")
            if self.folder is None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.model):
                raise ValueError(f"{self.model!r} is neither a folder here nor the name of a model in the hub")
        elif self.max_length != type(self).model_fields["max_length"].default:  # a recorded recipe has defaults too
            raise ValueError("`max_length` is for encoder: t5; a CLIP model has its own limit")
        elif self.folder is None and self.pretrained is None:
            raise ValueError(
                f"{self.model!r} is not a folder here, so it names an architecture; `pretrained` must name its weights"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The model's folder; None if `model` is a hub id or an architecture."""
        return pretrained.local_folder(self.model, BUILT_IN if self.encoder == "t5" else clip.BUILT_IN)

    @property
    def as_clip(self) -> clip.ClipModel:
        """Return these settings as the settings of a scorer's CLIP model, whose text tower encodes the texts."""
        return clip.ClipModel(
            model=self.model, pretrained=self.pretrained, device=self.device, precision=self.precision
        )
