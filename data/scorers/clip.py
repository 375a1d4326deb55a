"""Scores from any open_clip model: vectors of pictures, and the similarity between a picture and its caption.

The image tower runs once on each picture, and its vectors are stored (`ClipVectors`). The cosine similarity with the
caption (`ClipScore`) and the heads in heads.py are computed from these stored vectors.
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
    """Settings of a CLIP model. Of these settings, only the weights and the precision are part of a scorer's id."""

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
        """The model's name and a digest of its weights, such as `vit-l-14-3f9a02bc`."""
        model = Path(self.model).name if self.folder else self.model
        name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
        return f"{name}-{self.weights_digest[:8]}" + ("" if self.precision == "fp32" else f"-{self.precision}")

    @cached_property
    def weights_digest(self) -> str:
        """The SHA-256 of the file with the weights.

        Raises:
            ModelError: there are no such weights.
        """
        return pretrained.digest_file(self._weights_file())

    @property
    def id(self) -> str:
        """The scorer's id, which contains a digest of the model's weights."""
        return f"{super().id}-{self.model_id}"

    def vectors(self, flipped: bool = False) -> "ClipVectors":
        """Return the scorer that stores this model's vectors of pictures, or of mirrored pictures if `flipped`."""
        settings = {name: getattr(self, name) for name in ClipModel.model_fields if name != "scorer"}
        return ClipVectors(**settings, flipped=flipped)

    def load(self) -> "LoadedClip":
        """Load the model onto its device, once per process."""
        return _load(self.model, self.pretrained, self.precision, self.device)

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """Encode captions to vectors (n d), float32.

        Each distinct caption is encoded once. Batches are padded to full size, so that a caption's vector does not
        depend on the other captions.
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
    """Runs the image tower: computes a vector of length 1 for each picture, stored as little-endian float16."""

    flipped: bool = Field(False, description="mirror the picture first, which makes text in it unreadable")

    def look(self, picture: Image.Image) -> Any:
        """Convert the picture to the model's input."""
        return self.load().transform(ImageOps.mirror(picture) if self.flipped else picture)

    def score_batch(self, batch: list[Any]) -> Columns:
        """Compute the vectors of a batch."""
        return {"vector": pack_vectors(self.load().encode_pictures(batch, self.batch_size))}


class ClipScore(ClipModel, VectorScorer):
    """Scores a pair by the cosine similarity between its picture and its caption.

    With `flip`, the similarity of the mirrored picture is added. Text in a picture cannot raise this second score,
    because mirrored text is unreadable.
    """

    columns = pa.schema({"score": pa.float32(), "flipped": pa.float32()})

    flip: bool = Field(False, description="add the fact <name>_flipped; costs a second vector of each picture")

    @property
    def facts(self) -> list[str]:
        """The score, and with `flip` the score of the mirrored picture."""
        return ["score", "flipped"] if self.flip else ["score"]

    def inputs(self) -> tuple[PictureScorer, ...]:
        """Return the scorer of the pictures' vectors, and with `flip` also that of the mirrored pictures' vectors."""
        return (self.vectors(), self.vectors(flipped=True)) if self.flip else (self.vectors(),)

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """Return the cosine similarity between each picture and its caption."""
        texts = self.texts(captions)
        cosines = [np.round((pictures * texts).sum(1), 5).tolist() for pictures in vectors]
        return {"score": cosines[0], "flipped": cosines[1] if self.flip else [None] * len(captions)}


class LoadedClip:
    """An open_clip model on its device, with its tokenizer and preprocessing.

    Raises:
        ModelError: open_clip can't load the model.
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
        """The model's logit scale, by which cosine similarities are multiplied before a softmax."""
        return float(self.model.logit_scale.detach().exp())

    def encode_pictures(self, tensors: list[Any], batch_size: int) -> np.ndarray:
        """Encode preprocessed pictures to vectors (n d), float32.

        A batch is padded to its full size, so that a vector does not depend on the other pictures.
        """
        padded = self.torch.zeros(batch_size, *tensors[0].shape)
        self.torch.stack(tensors, out=padded[: len(tensors)])
        with self.torch.inference_mode():
            encoded = self.model.encode_image(padded.to(self.device, self.dtype), normalize=True)
        vectors: np.ndarray = encoded.float().cpu().numpy()
        return vectors[: len(tensors)]

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Encode texts to vectors (n d), float32."""
        with self.torch.inference_mode():
            encoded = self.model.encode_text(self.tokenize(texts).to(self.device), normalize=True)
        vectors: np.ndarray = encoded.float().cpu().numpy()
        return vectors


@lru_cache(maxsize=4)
def _load(model: str, pretrained: str | None, precision: str, device: str) -> LoadedClip:
    return LoadedClip(model, pretrained, precision, device)


def resolve_device(device: str) -> str:
    """Return the name of the device. `auto` becomes `cuda` if there is a GPU, else `cpu`; other names are unchanged."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _download_weights(model: str, tag: str) -> Path:
    """Return the file with weights that open_clip publishes, from the hub's cache or downloaded from the hub."""
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
