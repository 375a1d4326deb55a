"""CLIP, any open_clip model: vectors of pictures, and how well a picture fits its caption, as their cosine.

A model's image tower runs once a picture, and its vectors are kept (`ClipVectors`); the cosine with the caption
(`ClipScore`) and the heads in heads.py are said from them.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from pydantic import Field, model_validator

from data.errors import ModelError
from data.scorers import pretrained
from data.scorers.scorer import Columns, PictureScorer, PictureVectors, Scorer, VectorScorer, packed

BUILT_IN = Path(__file__).parent.parent / "world" / "models" / "clip"


class ClipModel(Scorer):
    """Which model, and how it runs. Only the model and its precision are part of what it says."""

    model: str = Field(description="'built-in', an open_clip name (ViT-L-14), or a folder with open_clip_config.json")
    pretrained: str | None = Field(None, description="with an open_clip name: its weights, a file or a tag")
    batch_size: int = Field(64, ge=1)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"

    runs_by: ClassVar[frozenset[str]] = frozenset({"model", "pretrained", "batch_size", "device", "precision"})

    @model_validator(mode="after")
    def _weights_are_named(self) -> "ClipModel":
        if self.folder is None and self.pretrained is None:
            raise ValueError(
                f"{self.model!r} is no folder here, so it names an architecture; `pretrained` must name its weights"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The folder that holds the whole model, if it is one."""
        return pretrained.folder_of(self.model, BUILT_IN)

    @cached_property
    def model_id(self) -> str:
        """Names the model by its weights: `vit-l-14-3f9a02bc`."""
        model = Path(self.model).name if self.folder else self.model
        name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
        return f"{name}-{self.weights_digest[:8]}" + ("" if self.precision == "fp32" else f"-{self.precision}")

    @cached_property
    def weights_digest(self) -> str:
        return pretrained.digest(self._weights())

    @property
    def id(self) -> str:
        return f"{super().id}-{self.model_id}"

    def vectors(self, flipped: bool = False) -> "ClipVectors":
        how = {name: getattr(self, name) for name in ClipModel.model_fields if name != "scorer"}
        return ClipVectors(**how, flipped=flipped)

    def load(self) -> "Loaded":
        return _load(self.model, self.pretrained, self.precision, self.device)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Vectors of texts, each encoded once, in batches that are always full. n × d, float32."""
        different = list(dict.fromkeys(captions))
        vectors: dict[str, np.ndarray] = {}
        for at in range(0, len(different), self.batch_size):
            part = different[at : at + self.batch_size]
            found = self.load().encode_texts([*part, *[""] * (self.batch_size - len(part))])
            vectors.update(zip(part, found, strict=False))
        return np.stack([vectors[caption] for caption in captions])

    def _weights(self) -> Path:
        if self.folder is not None:
            found = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("*.bin"))
            if not found:
                raise ModelError(f"{self.folder} holds no weights (*.safetensors). Correct scores.*.model")
            return found[0]
        assert self.pretrained is not None
        if (path := Path(self.pretrained)).is_file():
            return path
        return _downloaded(self.model, self.pretrained)


class ClipVectors(ClipModel, PictureVectors):
    """The image tower: one vector of length 1 a picture, as little-endian fp16."""

    flipped: bool = Field(False, description="look at the mirrored picture: text in it can't be read then")

    def look(self, picture: Image.Image) -> Any:
        return self.load().transform(ImageOps.mirror(picture) if self.flipped else picture)

    def say(self, seen: list[Any]) -> Columns:
        return {"vector": packed(self.load().encode_pictures(seen, self.batch_size))}


class ClipScore(ClipModel, VectorScorer):
    """The cosine of picture and caption; with `flip` that of the mirrored picture too, which scene text can't raise."""

    columns = pa.schema({"score": pa.float32(), "flipped": pa.float32()})

    flip: bool = Field(False, description="give <name>_flipped as well, at the cost of a second look")

    @property
    def facts(self) -> list[str]:
        return ["score", "flipped"] if self.flip else ["score"]

    def sees(self) -> tuple[PictureScorer, ...]:
        return (self.vectors(), self.vectors(flipped=True)) if self.flip else (self.vectors(),)

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        texts = self.texts(captions)
        cosines = [np.round((pictures * texts).sum(1), 5).tolist() for pictures in vectors]
        return {"score": cosines[0], "flipped": cosines[1] if self.flip else [None] * len(captions)}


class Loaded:
    """A model on its device, with its own tokenizer and preprocessing."""

    def __init__(self, model: str, pretrained: str | None, precision: str, device: str) -> None:
        import open_clip
        import torch

        self.torch = torch
        self.device = device_of(device)
        folder = BUILT_IN if model == "built-in" else Path(model)
        name = f"local-dir:{folder}" if folder.is_dir() else model
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                name, pretrained, precision=precision, device=self.device
            )
            self.tokenize = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"CLIP model {model} can't be loaded: {str(error).splitlines()[0]}") from error
        self.model.eval()
        self.dtype = open_clip.get_input_dtype(precision) or torch.float32

    @property
    def temperature(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def encode_pictures(self, tensors: list[Any], batch_size: int) -> np.ndarray:
        """A batch is always full: the last is padded, so that a vector does not depend on its company."""
        stacked = self.torch.zeros(batch_size, *tensors[0].shape)
        self.torch.stack(tensors, out=stacked[: len(tensors)])
        with self.torch.inference_mode():
            found = self.model.encode_image(stacked.to(self.device, self.dtype), normalize=True)
        vectors: np.ndarray = found.float().cpu().numpy()
        return vectors[: len(tensors)]

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        with self.torch.inference_mode():
            found = self.model.encode_text(self.tokenize(texts).to(self.device), normalize=True)
        vectors: np.ndarray = found.float().cpu().numpy()
        return vectors


@lru_cache(maxsize=4)
def _load(model: str, pretrained: str | None, precision: str, device: str) -> Loaded:
    """The model of these settings, once a process."""
    return Loaded(model, pretrained, precision, device)


def device_of(device: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _downloaded(model: str, tag: str) -> Path:
    """The file of a published tag, from the hub's cache or the hub."""
    import open_clip

    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none: no such architecture"
        raise ModelError(f"{tag!r} is neither a file nor published weights of {model}. Known: {known}")
    try:
        return Path(open_clip.download_pretrained(config))
    except OSError as error:
        raise ModelError(
            f"the weights {model}/{tag} can't be downloaded: {error}. Give a file as `pretrained`"
        ) from error
