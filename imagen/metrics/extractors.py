"""Extractors of the features for comparing pictures: Inception and DINOv2. A lake already stores those of CLIP.

Each extractor is a picture scorer like those of data/scorers, so that the same stage scores real and generated
pictures. Pictures are first cropped to squares, as for the model's training.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from data.pictures.square import square
from data.scorers import pretrained
from data.scorers.clip import resolve_device
from data.scorers.scorer import Columns, PictureVectors, pack_vectors
from imagen.errors import WeightsNotUsable
from imagen.metrics.hub_models import matching_files

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_SIDE = 299


class Extractor(PictureVectors):
    """Base class: computes a model's features of pictures that were cropped to squares of the generated pictures' size.

    A derived class overrides two methods: `preprocess` and `features`.
    """

    runs_by = frozenset({"device", "batch_size"})

    side: int = Field(64, ge=8, description="pixels a side of the compared pictures; by default the model's")
    fit: Literal["crop", "pad"] = Field(
        "crop", description="how a real picture becomes a square; by default as in training"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    def look(self, picture: Image.Image) -> Any:
        """Crop a picture to a square and preprocess it for the model."""
        import torch

        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)
        return self.preprocess(square(pixels, self.side, self.fit).permute(1, 2, 0).numpy())

    def score_batch(self, batch: list[Any]) -> Columns:
        """Return the vectors of a batch. The batch is padded to full size, so that no vector depends on its size."""
        import torch

        padding = [torch.zeros_like(batch[0])] * (self.batch_size - len(batch))
        inputs = torch.stack([*batch, *padding]).to(resolve_device(self.device))
        with torch.inference_mode():
            vectors = self.features(inputs)[: len(batch)].float().cpu().numpy()
        return {"vector": pack_vectors(vectors)}

    def preprocess(self, pixels: np.ndarray) -> "Tensor":
        """Return the model's input for a picture (h w 3, uint8)."""
        raise NotImplementedError

    def features(self, batch: "Tensor") -> "Tensor":
        """Return the features of a batch of preprocessed pictures (b d)."""
        raise NotImplementedError


class Inception(Extractor):
    """Computes the 2,048 features of FID and KID.

    Pictures are resized as by clean-fid (arXiv 2104.11222): without aliasing and without rounding.
    """

    runs_by = Extractor.runs_by | {"weights"}

    weights: str = Field(description=f"file of FID's Inception, published as {PUBLISHED_URL}")

    @property
    def id(self) -> str:
        """The scorer's id, with a digest of the weights instead of their path."""
        return f"{super().id}-{pretrained.digest_file(_existing_file(self.weights))[:8]}"

    def preprocess(self, pixels: np.ndarray) -> "Tensor":
        """Resize a picture to Inception's size (3 h w), with unrounded values from 0 to 255."""
        import torch

        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        channels = [Image.fromarray(pixels[..., index].astype(np.float32), "F") for index in range(3)]
        resized = [np.asarray(channel.resize(size, Image.Resampling.BICUBIC)) for channel in channels]
        return torch.from_numpy(np.stack(resized)).clamp(0, 255)

    def features(self, batch: "Tensor") -> "Tensor":
        """Return the output of Inception's last pooling layer (b 2048)."""
        vectors: Tensor = _inception(self.weights, str(batch.device))((batch - 128) / 128)
        return vectors


class Dinov2(Extractor):
    """The class token of DINOv2, or of another vision transformer of `transformers` (FD-DINOv2, arXiv 2306.04675)."""

    runs_by = Extractor.runs_by | {"model"}

    model: str = Field(description="a folder, or a model's name in the hub: facebook/dinov2-large")

    @property
    def id(self) -> str:
        """The scorer's id, with a digest of the model's files instead of its name."""
        return f"{super().id}-{pretrained.digest_files(matching_files(self.model))[:8]}"

    def preprocess(self, pixels: np.ndarray) -> "Tensor":
        """Prepare a picture with the model's own image processor (3 h w)."""
        processor, _ = _transformer(self.model, "cpu")
        inputs: Tensor = processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values[0]
        return inputs

    def features(self, batch: "Tensor") -> "Tensor":
        """Return the last layer's class tokens (b d)."""
        _, model = _transformer(self.model, str(batch.device))
        vectors: Tensor = model(pixel_values=batch).last_hidden_state[:, 0]
        return vectors


def _existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise WeightsNotUsable(
            f"there is no file {path} with the weights of FID's Inception. They are published as {PUBLISHED_URL}: put "
            "that file there, or name where it lies"
        )
    return Path(path)


@lru_cache(maxsize=1)
def _inception(path: str, device: str) -> "Module":
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(_existing_file(path), weights_only=True)  # torch-fidelity would also run the code of a pickle
        model = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    except Exception as error:  # noqa: BLE001 - reported: torch raises many kinds of errors for a wrong file
        reason = str(error).splitlines()[0]
        raise WeightsNotUsable(
            f"{path} does not hold the weights of FID's Inception ({PUBLISHED_URL}): {reason}"
        ) from None
    layers = [*list(model.children())[:-1], torch.nn.Flatten()]  # the model's own forward takes only integers
    return torch.nn.Sequential(*layers).to(device)


@lru_cache(maxsize=2)
def _transformer(name: str, device: str) -> tuple[Any, Any]:
    """Return the image processor and the model of that name."""
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoImageProcessor.from_pretrained(name), AutoModel.from_pretrained(name).to(device).eval()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsNotUsable(
            f"{name} can't be loaded: {reason}. Give a folder with config.json, preprocessor_config.json and "
            "model.safetensors, or a model's name in the hub such as facebook/dinov2-large"
        ) from error
