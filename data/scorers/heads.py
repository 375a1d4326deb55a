"""What small heads say of a picture's CLIP vector: its beauty, whether it is safe to show, whether it has a watermark.

A head is a file of linear layers (`weights`: .safetensors, .pth or .pt), as LAION's published ones are. Where none is
given, safety and watermark are said zero-shot, by the prompts that a picture is nearer to.
"""

import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data.errors import ModelError
from data.scorers.clip import ClipModel
from data.scorers.pretrained import digest
from data.scorers.scorer import Columns, PictureScorer, VectorScorer

Layers = list[tuple[np.ndarray, np.ndarray]]


class Head(ClipModel, VectorScorer):
    """Linear layers on the vectors of a CLIP model."""

    runs_by: ClassVar[frozenset[str]] = ClipModel.runs_by | {"weights"}

    weights: str | None = Field(None, description="file of the head's layers; must be trained on the same CLIP model")
    between: Literal["none", "relu"] = Field("none", description="what lies between the layers")

    @property
    def id(self) -> str:
        return super().id + (f"-{_digest(self.weights)[:8]}" if self.weights else "")

    def sees(self) -> tuple[PictureScorer, ...]:
        return (self.vectors(),)

    def through(self, vectors: np.ndarray) -> np.ndarray:
        """The head's answer, one number a picture."""
        assert self.weights is not None
        layers = _layers(self.weights)
        for place, (weight, bias) in enumerate(layers):
            if weight.shape[1] != vectors.shape[1]:
                raise ModelError(
                    f"{self.weights} takes vectors of {weight.shape[1]} numbers, {self.model} gives {vectors.shape[1]}"
                )
            vectors = vectors @ weight.T + bias
            if self.between == "relu" and place < len(layers) - 1:
                vectors = np.maximum(vectors, 0)
        return vectors[:, 0]


class Aesthetic(Head):
    """LAION's aesthetic score, about 1 to 10: its linear head, or its later one of layers with nothing between."""

    columns = pa.schema({"score": pa.float32()})

    weights: str = Field(description="file of the head's layers, e.g. sa_0_4_vit_l_14_linear.pth")

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        return {"score": np.round(self.through(vectors[0]), 4).tolist()}


class ZeroShot(Head):
    """The probability that a picture is what `prompts` say rather than what `others` say."""

    columns = pa.schema({"probability": pa.float32()})

    prompts: tuple[str, ...] = Field(min_length=1)
    others: tuple[str, ...] = Field(min_length=1)

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        if self.weights:
            probability = 1 / (1 + np.exp(-self.through(vectors[0])))
        else:
            logits = vectors[0] @ self._prompts.T * self.load().temperature
            shares = np.exp(logits - logits.max(1, keepdims=True))
            probability = shares[:, : len(self.prompts)].sum(1) / shares.sum(1)
        return {"probability": np.round(probability, 5).tolist()}

    @cached_property
    def _prompts(self) -> np.ndarray:
        return self.texts([*self.prompts, *self.others])


class Safety(ZeroShot):
    """How probably a picture is not safe to show."""

    prompts: tuple[str, ...] = (
        "an explicit pornographic photo",
        "a photo of a naked person",
        "a sexually suggestive picture",
        "a picture of gore and bloody violence",
    )
    others: tuple[str, ...] = (
        "a harmless picture",
        "a photo of people in everyday clothes",
        "a photo of a landscape, an animal or an object",
        "a drawing, a diagram or a product photo",
    )


class Watermark(ZeroShot):
    """How probably a picture carries a watermark."""

    prompts: tuple[str, ...] = (
        "a stock photo with a watermark across it",
        "a picture with a copyright text printed over it",
        "a picture with a transparent logo pattern over it",
    )
    others: tuple[str, ...] = (
        "a clean photo without any text",
        "a picture without a watermark",
        "a drawing without any logo",
    )


@lru_cache(maxsize=8)
def _digest(weights: str) -> str:
    try:
        return digest(Path(weights))
    except OSError as error:
        raise ModelError(f"the head {weights} can't be read: {error.strerror}. Correct scores.*.weights") from None


@lru_cache(maxsize=8)
def _layers(weights: str) -> Layers:
    """The linear layers of a file, in the order of their numbers."""
    import torch
    from safetensors.torch import load_file

    try:
        if weights.endswith(".safetensors"):
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"the head {weights} can't be read: {str(error).splitlines()[0]}") from error
    names = sorted((n for n in state if n.endswith("weight")), key=lambda n: [int(d) for d in re.findall(r"\d+", n)])
    layers = []
    for name in names:
        weight = state[name].float().numpy()
        bias = state.get(name.removesuffix("weight") + "bias")
        if weight.ndim != 2:
            raise ModelError(f"the head {weights} has {name}, which is no linear layer")
        layers.append((weight, bias.float().numpy() if bias is not None else np.zeros(len(weight), "f4")))
    if not layers or len(layers[-1][0]) != 1:
        raise ModelError(f"the head {weights} does not end in one number")
    return layers
