"""A trained model, and what looks at pictures. Lakes with models are in tests/conftest.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from data.lake.lake import Lake
from imagen.metrics.extractors import INCEPTION_SIDE
from imagen.models.model import Imagen
from tests.imagen.metrics.pictures import draw_pictures
from tests.shared import made_once

torch.set_num_threads(1)  # little models wait for their threads longer than they compute


@pytest.fixture
def model(one_model_lake: Lake) -> Imagen:
    return Imagen.from_pretrained("little/1", one_model_lake.url)


class Untrained(FeatureExtractorInceptionV3):
    """The library makes none without the published file."""

    def load_state_dict(self, *_: Any, **more: Any) -> Any:
        pass


def write_inception(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save({}, folder / "none.pth")
    model = Untrained("inception", ["2048"], feature_extractor_weights_path=str(folder / "none.pth")).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # so that features are as large as those of trained weights
    pixels = np.stack([np.asarray(picture) for picture in draw_pictures(8, INCEPTION_SIDE, 0)[0]])
    with torch.no_grad():
        model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    torch.save(model.state_dict(), folder / "inception.pth")


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for FID's Inception."""
    return made_once(tmp_path_factory, "inception", write_inception) / "inception.pth"


def write_dinov2(folder: Path) -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 4}
    Dinov2Model(Dinov2Config(**small, initializer_range=0.2)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small DINOv2 with random weights."""
    return made_once(tmp_path_factory, "dinov2", write_dinov2)
