"""The settings of a text encoder."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.scorers import clip, pretrained

BUILT_IN = Path(__file__).parents[1] / "world" / "models" / "t5"


class EncoderSettings(BaseModel):
    """Which model, what it says, and how it runs. Batches and device are no part of an embedding's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: Literal["t5", "clip"]
    model: str = Field(
        description="'built-in', a folder, a hub id of a T5 (google/t5-v1_1-xxl), or an open_clip name (ViT-L-14)"
    )
    pretrained: str | None = Field(None, description="with an open_clip name: its weights, a file or a tag")
    pooled: bool = Field(
        False, description="clip: one vector a text, as it is compared with pictures; else one a token"
    )
    max_length: int = Field(
        128, ge=2, description="t5: tokens after which a caption is cut; clip has a length of its own"
    )
    dtype: Literal["float16", "bfloat16"] = Field("float16", description="of what is stored")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the arithmetic")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    batch_tokens: int = Field(512, ge=1, description="of a batch, padding counted: rows x width; more for a GPU")
    publish: bool = Field(True, description="add its columns to the dataset; else the embeddings are read apart")
    of: str | None = Field(
        None,
        exclude_if=lambda of: of is None,  # recipes that don't say it keep their hash
        description="the score whose text is read, such as a captioner's; the pair's own caption if not given",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "EncoderSettings":
        if self.encoder == "t5":
            if self.pretrained is not None or self.pooled:
                raise ValueError("`pretrained` and `pooled` are for encoder: clip")
            if self.folder is None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.model):
                raise ValueError(f"{self.model!r} is neither a folder here nor the name of a model in the hub")
        elif self.max_length != type(self).model_fields["max_length"].default:  # a recorded recipe says defaults too
            raise ValueError("`max_length` is for encoder: t5; a CLIP model has a length of its own")
        elif self.folder is None and self.pretrained is None:
            raise ValueError(
                f"{self.model!r} is no folder here, so it names an architecture; `pretrained` must name its weights"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The folder that holds the whole model, if it is one."""
        return pretrained.local_folder(self.model, BUILT_IN if self.encoder == "t5" else clip.BUILT_IN)

    @property
    def as_clip(self) -> clip.ClipModel:
        return clip.ClipModel(
            model=self.model, pretrained=self.pretrained, device=self.device, precision=self.precision
        )
