"""CLIP scores, by any open_clip model: vectors of pictures, and the similarity of a picture and its caption.

The image tower runs once on each picture and its vectors are stored (`ClipVectors`). The cosine with the caption
(`ClipScore`) and the heads in heads.py are computed from these vectors.
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
from data.scorers.scorer import Columns, PictureScorer, PictureVectors, Scorer, VectorScorer, pack_vectors

BUILT_IN = Path(__file__).parent.parent / "world" / "models" / "clip"


class ClipModel(Scorer):
    """Settings of a CLIP model. Only the model's weights and its precision are part of a scorer's id."""

    model: str = Field(
        description="'built-in', an open_clip architecture (ViT-L-14), or a folder with open_clip_config.json"
    )
    pretrained: str | None = Field(None, description="weights of an architecture: a file, or one of open_clip's tags")
    batch_size: int = Field(64, ge=1, description="pictures or texts that the model gets at once")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="precision of the arithmetic")

    runs_by: ClassVar[frozenset[str]] = frozenset({"model", "pretrained", "batch_size", "device", "precision"})

    @model_validator(mode="after")
    def _check_weights(self) -> "ClipModel":
        if self.folder is None and self.pretrained is None:
            raise ValueError(
                f"{self.model!r} is not a folder here, so it names an architecture; `pretrained` must name its weights"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The model's folder; None if `model` names an architecture."""
        return pretrained.local_folder(self.model, BUILT_IN)

    @cached_property
    def model_id(self) -> str:
        """Names the model by its weights: `vit-l-14-3f9a02bc`."""
        model = Path(self.model).name if self.folder else self.model
        name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
        return f"{name}-{self.weights_digest[:8]}" + ("" if self.precision == "fp32" else f"-{self.precision}")

    @cached_property
    def weights_digest(self) -> str:
        """The SHA-256 of the weights' file.

        Raises:
            ModelError: there are no such weights.
        """
        return pretrained.digest_file(self._weights_file())

    @property
    def id(self) -> str:
        """Names the scorer, and the model by its weights."""
        return f"{super().id}-{self.model_id}"

    def vectors(self, flipped: bool = False) -> "ClipVectors":
        """The scorer that stores this model's vectors of pictures, or of mirrored pictures."""
        settings = {name: getattr(self, name) for name in ClipModel.model_fields if name != "scorer"}
        return ClipVectors(**settings, flipped=flipped)

    def load(self) -> "LoadedClip":
        """The model on its device, loaded once in a process."""
        return _load(self.model, self.pretrained, self.precision, self.device)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Vectors of captions (n d), float32.

        Each different caption is encoded once, in batches that are always full, so that its vector does not depend on
        the other captions.
        """
        distinct = list(dict.fromkeys(captions))
        vectors: dict[str, np.ndarray] = {}
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            encoded = self.load().encode_texts([*batch, *[""] * (self.batch_size - len(batch))])
            vectors.update(zip(batch, encoded, strict=False))
        return np.stack([vectors[caption] for caption in captions])

    def _weights_file(self) -> Path:
        if self.folder is not None:
            files = sorted(self.folder.glob("*.safetensors")) or sorted(self.folder.glob("*.bin"))
            if not files:
                raise ModelError(f"{self.folder} holds no weights (*.safetensors). Correct scores.*.model")
            return files[0]
        assert self.pretrained is not None
        path = Path(self.pretrained)
        return path if path.is_file() else _download_weights(self.model, self.pretrained)


class ClipVectors(ClipModel, PictureVectors):
    """The image tower: a vector of length 1 of each picture, as little-endian float16."""

    flipped: bool = Field(False, description="mirror the picture first, which makes text in it unreadable")

    def look(self, picture: Image.Image) -> Any:
        """The picture as the model's input."""
        return self.load().transform(ImageOps.mirror(picture) if self.flipped else picture)

    def score_batch(self, batch: list[Any]) -> Columns:
        """The vectors of a batch."""
        return {"vector": pack_vectors(self.load().encode_pictures(batch, self.batch_size))}


class ClipScore(ClipModel, VectorScorer):
    """The cosine of picture and caption.

    With `flip` also that of the mirrored picture, which text in the picture cannot raise.
    """

    columns = pa.schema({"score": pa.float32(), "flipped": pa.float32()})

    flip: bool = Field(False, description="add the fact <name>_flipped; costs a second vector of each picture")

    @property
    def facts(self) -> list[str]:
        """The score, and with `flip` that of the mirrored picture."""
        return ["score", "flipped"] if self.flip else ["score"]

    def inputs(self) -> tuple[PictureScorer, ...]:
        """The vectors of the pictures, and with `flip` those of the mirrored pictures."""
        return (self.vectors(), self.vectors(flipped=True)) if self.flip else (self.vectors(),)

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """The cosines of pictures and captions."""
        texts = self.texts(captions)
        cosines = [np.round((pictures * texts).sum(1), 5).tolist() for pictures in vectors]
        return {"score": cosines[0], "flipped": cosines[1] if self.flip else [None] * len(captions)}


class LoadedClip:
    """An open_clip model on its device, with its own tokenizer and preprocessing.

    Raises:
        ModelError: open_clip can't load it.
    """

    def __init__(self, model: str, pretrained: str | None, precision: str, device: str) -> None:
        import open_clip
        import torch

        self.torch = torch
        self.device = resolve_device(device)
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
        """The model's logit scale, by which cosines are multiplied before a softmax."""
        return float(self.model.logit_scale.detach().exp())

    def encode_pictures(self, tensors: list[Any], batch_size: int) -> np.ndarray:
        """Vectors of preprocessed pictures (n d), float32.

        A batch is padded to its full size, so that a vector does not depend on the other pictures.
        """
        padded = self.torch.zeros(batch_size, *tensors[0].shape)
        self.torch.stack(tensors, out=padded[: len(tensors)])
        with self.torch.inference_mode():
            encoded = self.model.encode_image(padded.to(self.device, self.dtype), normalize=True)
        vectors: np.ndarray = encoded.float().cpu().numpy()
        return vectors[: len(tensors)]

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Vectors of texts (n d), float32."""
        with self.torch.inference_mode():
            encoded = self.model.encode_text(self.tokenize(texts).to(self.device), normalize=True)
        vectors: np.ndarray = encoded.float().cpu().numpy()
        return vectors


@lru_cache(maxsize=4)
def _load(model: str, pretrained: str | None, precision: str, device: str) -> LoadedClip:
    return LoadedClip(model, pretrained, precision, device)


def resolve_device(device: str) -> str:
    """The device that `auto` means: `cuda` if there is one, else `cpu`. Other names are returned as they are."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _download_weights(model: str, tag: str) -> Path:
    """The file of open_clip's published weights, from the hub's cache or from the hub."""
    import open_clip

    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none, as there is no such architecture"
        raise ModelError(f"{tag!r} is neither a file nor published weights of {model}. Published: {tags}")
    try:
        return Path(open_clip.download_pretrained(config))
    except OSError as error:
        raise ModelError(
            f"the weights {model}/{tag} can't be downloaded: {error}. Give a file as `pretrained`"
        ) from error
