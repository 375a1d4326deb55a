"""A model that is trained once a session."""

import pytest
import torch

from data.lake import Lake
from imagen.model import Imagen
from tests.imagen.little import trained_lake

torch.set_num_threads(1)  # little models wait for their threads longer than they compute


@pytest.fixture(scope="session")
def little_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return trained_lake(tmp_path_factory.mktemp("little"))


@pytest.fixture
def model(little_lake: Lake) -> Imagen:
    return Imagen.from_pretrained("little/1", little_lake.url)
