"""What pictures are compared by: features of Inception and of DINOv2. CLIP's are the vectors that a lake keeps anyway.

Each is a scorer of pictures like those of `data/scorers`, so that what looks at a dataset's pictures looks at made ones
too. Real pictures are first cut to squares, as the model was shown them.
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
from imagen.metrics.hub_models import files_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_SIDE = 299


class Extractor(PictureVectors):
    """Looks at pictures as a model is shown them."""

    runs_by = frozenset({"device", "batch_size"})

    side: int = Field(64, ge=8, description="pixels of the pictures that are compared; the model's")
    fit: Literal["crop", "pad"] = Field(
        "crop", description="how a real picture becomes a square; as the model was trained"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    def look(self, picture: Image.Image) -> Any:
        import torch

        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)
        return self.prepared(square(pixels, self.side, self.fit).permute(1, 2, 0).numpy())

    def score_batch(self, seen: list[Any]) -> Columns:
        """A batch is always full, so that a vector does not depend on its company."""
        import torch

        batch = torch.stack([*seen, *[torch.zeros_like(seen[0])] * (self.batch_size - len(seen))])
        with torch.inference_mode():
            found = self.features(batch.to(resolve_device(self.device)))[: len(seen)].float().cpu().numpy()
        return {"vector": pack_vectors(found)}

    def prepared(self, pixels: np.ndarray) -> "Tensor":  # h w 3, uint8
        raise NotImplementedError

    def features(self, batch: "Tensor") -> "Tensor":
        raise NotImplementedError


class Inception(Extractor):
    """The 2,048 features of FID and KID, enlarged the way of clean-fid (arXiv 2104.11222): no aliasing, no rounding."""

    runs_by = Extractor.runs_by | {"weights"}

    weights: str = Field(description=f"file of FID's Inception, published as {PUBLISHED}")

    @property
    def id(self) -> str:
        return f"{super().id}-{pretrained.digest_file(_there(self.weights))[:8]}"

    def prepared(self, pixels: np.ndarray) -> "Tensor":
        import torch

        size = (INCEPTION_SIDE, INCEPTION_SIDE)
        channels = [Image.fromarray(pixels[..., at].astype(np.float32), "F") for at in range(3)]
        resized = [np.asarray(one.resize(size, Image.Resampling.BICUBIC)) for one in channels]
        return torch.from_numpy(np.stack(resized)).clamp(0, 255)

    def features(self, batch: "Tensor") -> "Tensor":
        found: Tensor = _inception(self.weights, str(batch.device))((batch - 128) / 128)
        return found


class Dinov2(Extractor):
    """The class token of any DINOv2, or other vision transformer of `transformers` (FD-DINOv2, arXiv 2306.04675)."""

    runs_by = Extractor.runs_by | {"model"}

    model: str = Field(description="a folder, or a model's name in the hub: facebook/dinov2-large")

    @property
    def id(self) -> str:
        return f"{super().id}-{pretrained.digest_files(files_of(self.model))[:8]}"

    def prepared(self, pixels: np.ndarray) -> "Tensor":
        processor, _ = _transformer(self.model, "cpu")
        found: Tensor = processor(images=Image.fromarray(pixels), return_tensors="pt").pixel_values[0]
        return found

    def features(self, batch: "Tensor") -> "Tensor":
        _, model = _transformer(self.model, str(batch.device))
        found: Tensor = model(pixel_values=batch).last_hidden_state[:, 0]
        return found


def _there(path: str) -> Path:
    if not Path(path).is_file():
        raise WeightsNotUsable(
            f"there is no file {path} with the weights of FID's Inception. They are published as {PUBLISHED}: put that "
            "file there, or name where it lies"
        )
    return Path(path)


@lru_cache(maxsize=1)
def _inception(path: str, device: str) -> "Module":
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(_there(path), weights_only=True)  # the library would also run what a pickle says
        model = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=path)
    except Exception as error:  # noqa: BLE001 - told: torch raises many kinds for a file that is not what it should be
        said = str(error).splitlines()[0]
        raise WeightsNotUsable(f"{path} does not hold the weights of FID's Inception ({PUBLISHED}): {said}") from None
    layers = [*list(model.children())[:-1], torch.nn.Flatten()]  # its own forward takes whole numbers alone
    return torch.nn.Sequential(*layers).to(device)


@lru_cache(maxsize=2)
def _transformer(name: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return AutoImageProcessor.from_pretrained(name), AutoModel.from_pretrained(name).to(device).eval()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise WeightsNotUsable(
            f"{name} can't be loaded: {said}. Give a folder with config.json, preprocessor_config.json and "
            "model.safetensors, or a model's name in the hub such as facebook/dinov2-large"
        ) from error
