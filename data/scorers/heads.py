"""Small heads that score a picture from its CLIP vector: aesthetics, safety (is it safe to show?), and watermarks.

A head is a file of linear layers (`weights`: .safetensors, .pth or .pt), such as those that LAION publishes. Without a
file, safety and watermark are classified zero-shot: the vector is compared with two lists of prompts.
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
from data.scorers.pretrained import digest_file
from data.scorers.scorer import Columns, PictureScorer, VectorScorer

Layers = list[tuple[np.ndarray, np.ndarray]]


class Head(ClipModel, VectorScorer):
    """Scores pictures by linear layers over the vectors of a CLIP model."""

    runs_by: ClassVar[frozenset[str]] = ClipModel.runs_by | {"weights"}

    weights: str | None = Field(None, description="file of the head's layers, trained on the same CLIP model")
    between: Literal["none", "relu"] = Field("none", description="activation between the layers")

    @property
    def id(self) -> str:
        """The scorer's id, which contains the CLIP model and a digest of the head's weights."""
        return super().id + (f"-{_digest_weights(self.weights)[:8]}" if self.weights else "")

    def inputs(self) -> tuple[PictureScorer, ...]:
        """Return the scorer of the CLIP model's vectors."""
        return (self.vectors(),)

    def run_layers(self, vectors: np.ndarray) -> np.ndarray:
        """Return the head's output (n) for vectors (n d).

        Raises:
            ModelError: the head's file can't be read, or was made for vectors of another size.
        """
        assert self.weights is not None
        layers = _read_layers(self.weights)
        for index, (weight, bias) in enumerate(layers):
            if weight.shape[1] != vectors.shape[1]:
                raise ModelError(
                    f"{self.weights} takes vectors of {weight.shape[1]} numbers, {self.model} gives {vectors.shape[1]}"
                )
            vectors = vectors @ weight.T + bias
            if self.between == "relu" and index < len(layers) - 1:
                vectors = np.maximum(vectors, 0)
        return vectors[:, 0]


class Aesthetic(Head):
    """LAION's aesthetic score, about 1 to 10, from LAION's linear head or its later head with several linear layers."""

    columns = pa.schema({"score": pa.float32()})

    weights: str = Field(description="file of the head's layers, e.g. sa_0_4_vit_l_14_linear.pth")

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """Return the aesthetic scores."""
        return {"score": np.round(self.run_layers(vectors[0]), 4).tolist()}


class ZeroShot(Head):
    """The probability that a picture matches `prompts` rather than `others`.

    With `weights`, the probability is instead the sigmoid of the head's output.
    """

    columns = pa.schema({"probability": pa.float32()})

    prompts: tuple[str, ...] = Field(min_length=1, description="texts of the class whose probability is the score")
    others: tuple[str, ...] = Field(min_length=1, description="texts of the opposite class")

    def judge(self, vectors: list[np.ndarray], captions: list[str]) -> Columns:
        """Return the probabilities."""
        if self.weights:
            probability = 1 / (1 + np.exp(-self.run_layers(vectors[0])))
        else:
            logits = vectors[0] @ self._prompt_vectors.T * self.load().temperature
            weights = np.exp(logits - logits.max(1, keepdims=True))
            probability = weights[:, : len(self.prompts)].sum(1) / weights.sum(1)
        return {"probability": np.round(probability, 5).tolist()}

    @cached_property
    def _prompt_vectors(self) -> np.ndarray:
        return self.texts([*self.prompts, *self.others])


class Safety(ZeroShot):
    """The probability that a picture is not safe to show."""

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
    """The probability that a picture has a watermark."""

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
def _digest_weights(weights: str) -> str:
    try:
        return digest_file(Path(weights))
    except OSError as error:
        raise ModelError(f"the head {weights} can't be read: {error.strerror}. Correct scores.*.weights") from None


@lru_cache(maxsize=8)
def _read_layers(weights: str) -> Layers:
    """Read the weight and bias of each linear layer in a file, ordered by the numbers in the parameters' names."""
    import torch
    from safetensors.torch import load_file

    try:
        if weights.endswith(".safetensors"):
            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"the head {weights} can't be read: {str(error).splitlines()[0]}") from error
    layers = []
    for name in sorted((name for name in state if name.endswith("weight")), key=_layer_numbers):
        weight = state[name].float().numpy()
        bias = state.get(name.removesuffix("weight") + "bias")
        if weight.ndim != 2:
            raise ModelError(f"the head {weights} has {name}, which is not a linear layer")
        layers.append((weight, bias.float().numpy() if bias is not None else np.zeros(len(weight), "f4")))
    if not layers or len(layers[-1][0]) != 1:
        raise ModelError(f"the head {weights} does not end in one number")
    return layers


def _layer_numbers(name: str) -> list[int]:
    """Return the numbers in a parameter's name, by which layers are ordered."""
    return [int(digits) for digits in re.findall(r"\d+", name)]
