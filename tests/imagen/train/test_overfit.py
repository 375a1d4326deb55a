"""A stage learns what it is shown: eight pictures come back from their captions."""

import pytest
import torch

from data.lake.lake import Lake
from data.pictures.square import square
from data.reader.reader import Reader
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.cascade.sampling import Conditioning, draw_noise, sample
from imagen.cascade.settings import SampleSettings
from imagen.cascade.unet import UNet
from imagen.config.cascade import CascadeSettings
from imagen.config.presets import cascade_of_size
from imagen.train.batches import Batch, collate
from imagen.train.loss import StageLoss, draw
from tests.lakes.drawn import make_drawn_lake

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eight_pictures(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_drawn_lake(tmp_path_factory.mktemp("eight"), 8)


@pytest.fixture(scope="module")
def four_pictures(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_drawn_lake(tmp_path_factory.mktemp("four"), 4)


def load_batch(lake: Lake, side: int) -> Batch:
    samples = Reader(lake, "drawn", columns=("image", "t5"), shuffle=False)
    return collate([{**sample, "pixels": square(sample["image"], side, "crop")} for sample in samples], "t5")


def psnr_after(lake: Lake, cascade: CascadeSettings, number: int, steps: int) -> torch.Tensor:
    """Train a stage on all pictures of a lake, sample their captions, and compare: decibels for each picture."""
    torch.manual_seed(0)
    stage = cascade.stages[number]
    low_res_side = cascade.stages[0].resolution if number else None
    loss = StageLoss(Diffusion(stage.diffusion, stage.resolution), low_res_side)
    unet = UNet(**cascade.unet_arguments(number)).to(memory_format=torch.channels_last)
    batch = load_batch(lake, stage.resolution)
    fit(unet, loss, batch, steps)
    rngs, low_res = [torch.Generator().manual_seed(seed) for seed in range(len(batch))], None
    if low_res_side:
        larger = enlarge(shrink(batch.pixels, low_res_side), stage.resolution)
        low_res = add_conditioning_noise(larger, draw_noise(rngs, larger), torch.full((len(batch),), 0.1))
    with torch.no_grad():
        settings = SampleSettings(guidance=1, steps=20)
        conditioning = Conditioning(batch.text, batch.mask, low_res=low_res)
        images = sample(unet, loss.diffusion, settings, draw_noise(rngs, batch.pixels), rngs, conditioning)
    errors = (images - batch.pixels).square().mean((1, 2, 3))
    return 10 * torch.log10(4 / errors)  # pixels are from -1 to 1


def fit(unet: UNet, loss: StageLoss, batch: Batch, steps: int) -> None:
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        draws = draw(0, step, range(len(batch)), len(batch), loss.image_shape(), 0.0)
        errors, weights = loss.errors(unet, batch, draws)
        (errors * weights).mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("stage", [0, 1])
def test_four_pictures_come_back_roughly_after_a_few_seconds(stage: int, four_pictures: Lake) -> None:
    cascade = cascade_of_size(16, (8, 16), text_width=128)
    psnr = psnr_after(four_pictures, cascade, stage, steps=400)
    assert psnr.mean() > 18, psnr  # a network that can't learn stays at 13


@pytest.mark.nightly
@pytest.mark.parametrize("stage", [0, 1])
def test_eight_pictures_are_reproduced_from_their_captions(stage: int, eight_pictures: Lake) -> None:
    cascade = cascade_of_size(16, (16, 32), text_width=128)
    psnr = psnr_after(eight_pictures, cascade, stage, steps=800)
    assert psnr.min() > 25, psnr
