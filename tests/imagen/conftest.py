"""Models that are trained or made once a session, and what looks at their pictures."""

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
from tests.imagen.metrics.pictures import drawn
from tests.lakes.drawn import with_images
from tests.lakes.trained import another, copy_of, trained_lake

torch.set_num_threads(1)  # little models wait for their threads longer than they compute


@pytest.fixture(scope="session")
def little_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return trained_lake(tmp_path_factory.mktemp("little"))


@pytest.fixture
def model(little_lake: Lake) -> Imagen:
    return Imagen.from_pretrained("little/1", little_lake.url)


class Untrained(FeatureExtractorInceptionV3):
    """The library makes none without the published file."""

    def load_state_dict(self, *_: Any, **more: Any) -> Any:
        pass


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    model = Untrained("inception", ["2048"], feature_extractor_weights_path=str(folder / "none.pth")).train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # features as large as trained ones are, which others of chance are not
    with torch.no_grad():
        model(
            torch.from_numpy(np.stack([np.asarray(one) for one in drawn(8, INCEPTION_SIDE, 0)[0]])).permute(0, 3, 1, 2)
        )
    torch.save(model.state_dict(), folder / "inception.pth")
    return folder / "inception.pth"


@pytest.fixture(scope="session")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dinov2")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 4}
    Dinov2Model(Dinov2Config(**small, initializer_range=0.2)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def before(little_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """With the pictures that `drawn@1` was published from."""
    return with_images(copy_of(little_lake, tmp_path_factory.mktemp("evaluated") / "lake"))


@pytest.fixture(scope="session")
def several(before: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """With little/2 and little/3 beside little/1, of other weights."""
    lake = copy_of(before, tmp_path_factory.mktemp("several") / "lake")
    for number in (2, 3):
        another(lake, number)
    return lake
