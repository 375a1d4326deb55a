"""Small cascades: one that is trained for a few steps, and untrained ones with weights that are nowhere zero."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.lake.lake import Lake
from imagen.cascade.settings import SampleSettings
from imagen.cascade.unet import UNet
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.config.training import TrainConfig
from imagen.models.assemble import add_model, assemble_pipeline
from imagen.models.model import Imagen
from imagen.models.table import models
from imagen.train.setup import plan_training
from imagen.train.train import train
from tests.lakes.drawn import make_drawn_lake

QUICK = (SampleSettings(steps=6), SampleSettings(steps=4), SampleSettings(steps=3))
CAPTION = "a large red circle above a small blue square"


def make_trained_lake(folder: Path) -> Lake:
    """Make a lake with the dataset `drawn@1` and the model `little/1`, which is trained on it for eight steps."""
    lake = make_drawn_lake(folder, 24)
    settings = TrainSettings(steps=8, batch=4, warmup=0, learning_rate=3e-3, ema=0.1, grid_every=None)
    config = TrainConfig(name="little", preset="tiny", size=16, resolutions=(16, 32), train=settings, sample=QUICK[:2])
    trained = train(plan_training(lake, config, "drawn"), cpu=True).trained
    assert trained is not None
    return lake


def add_perturbed_model(lake: Lake, number: int, **config: object) -> str:
    """Add a model whose weights differ slightly from those of the first. Returns its NAME/NUMBER."""
    first = models(lake)[-1]
    model = Imagen.from_pretrained("little/1", lake.url)
    torch.manual_seed(number)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    lineage = {"dataset": first.dataset, "version": first.version, "stages": first.stages}
    changed = TrainConfig.model_validate({**first.config, **config})
    return add_model(lake, changed, f"{number:x}" * 32, model, lineage).reference


def untrained_model(
    sides: tuple[int, ...], text: dict[str, Any] | None = None, text_width: int | None = None
) -> Imagen:
    """A model whose weights are nowhere zero, so that every input affects the images."""
    cascade = cascade_of_size(16, sides, text_width)
    torch.manual_seed(0)
    unets = [UNet(**cascade.unet_arguments(stage)).eval() for stage in range(len(sides))]
    with torch.no_grad():
        for unet in unets:
            for parameter in unet.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return assemble_pipeline(cascade, QUICK[: len(sides)], text, unets)


def pixel_levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def mean_difference(first: Image.Image, other: Image.Image) -> float:
    """The mean difference of two images' pixels, in levels of 255."""
    return float(np.abs(pixel_levels(first) - pixel_levels(other)).mean())
