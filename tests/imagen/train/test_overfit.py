"""A stage learns what it is shown: eight pictures come back from their captions."""

import pytest
import torch

from data.lake.lake import Lake
from data.pictures.square import square
from data.reader.reader import Reader
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.resize import augmented, enlarged, shrunk
from imagen.cascade.sampling import Asked, SampleSettings, drawn, sample
from imagen.cascade.unet import UNet
from imagen.config.presets import by_size
from imagen.train.batches import Batch, collate
from imagen.train.loss import Lesson, draw
from tests.lakes.drawn import drawn_lake

PICTURES, BATCH, STEPS = 8, 8, 800
CASCADE = by_size(16, (16, 32), text_width=128)


@pytest.fixture(scope="module")
def eight_pictures(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return drawn_lake(tmp_path_factory.mktemp("eight"), PICTURES)


def eight(lake: Lake, side: int) -> Batch:
    samples = Reader(lake, "drawn", columns=("image", "t5"), shuffle=False)
    return collate([{**sample, "pixels": square(sample["image"], side, "crop")} for sample in samples], "t5")


def repeated(batch: Batch, times: int) -> Batch:
    assert batch.text is not None
    assert batch.seen is not None
    return Batch(batch.pixels.repeat(times, 1, 1, 1), batch.text.repeat(times, 1, 1), batch.seen.repeat(times, 1))


@pytest.mark.parametrize("stage", [0, 1])
def test_eight_pictures_are_reproduced_from_their_captions(stage: int, eight_pictures: Lake) -> None:
    torch.manual_seed(0)
    own = CASCADE.stages[stage]
    small_side = CASCADE.stages[0].resolution if stage else None
    lesson = Lesson(Diffusion(own.diffusion, own.resolution), small_side)
    unet = UNet(**CASCADE.unet(stage)).to(memory_format=torch.channels_last)
    known = eight(eight_pictures, own.resolution)
    batch = repeated(known, BATCH // PICTURES)
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3, betas=(0.9, 0.99))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        draws = draw(0, step, range(BATCH), BATCH, lesson.shape(), 0.0)
        errors, weights = lesson.errors(unet, batch, draws)
        (errors * weights).mean().backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    rngs, small = [torch.Generator().manual_seed(number) for number in range(PICTURES)], None
    if small_side:
        larger = enlarged(shrunk(known.pixels, small_side), own.resolution)
        small = augmented(larger, drawn(rngs, larger), torch.full((PICTURES,), 0.1))
    with torch.no_grad():
        settings = SampleSettings(guidance=1, steps=20)
        asked = Asked(known.text, known.seen, small=small)
        made = sample(unet, lesson.diffusion, settings, drawn(rngs, known.pixels), rngs, asked)
    errors = (made - known.pixels).square().mean((1, 2, 3))
    psnr = 10 * torch.log10(4 / errors)  # pixels are from -1 to 1
    assert psnr.min() > 25, psnr
