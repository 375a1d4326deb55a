"""The sample grid of a stage in training: the dataset's images, and below them images generated for their captions."""

import io
from itertools import islice

import torch

from data.lake import storage
from data.pictures.contact_sheet import draw_contact_sheet
from data.pictures.square import Fit
from data.reader.reader import Reader
from imagen.cascade.checks import tensor_to_image
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.cascade.sampling import Conditioning, draw_noise, sample
from imagen.cascade.settings import SampleSettings
from imagen.train.batches import SquareSamples, collate
from imagen.train.stage_run import Run

COLUMNS = 8  # samples of a grid
GRID = SampleSettings(steps=20, guidance=3.0)


def write_grid(url: str, run: Run, reader: Reader, text: str | None, fit: Fit) -> None:
    """Write a stage's grid as a PNG, made with the averaged weights. Every process of the run must call it.

    Args:
        reader: the reader of the samples; the first samples are shown.
        text: the column of embeddings, or None without text.
    """
    diffusion, low_res_side = run.stage_loss.diffusion, run.stage_loss.low_res_side
    samples = list(islice(SquareSamples(reader, diffusion.resolution, fit), COLUMNS))
    batch = collate(samples, text).to(run.accelerator.device)
    rngs = [torch.Generator().manual_seed(number) for number in range(len(batch))]
    noise, low_res = draw_noise(rngs, batch.pixels), None
    if low_res_side:
        larger = enlarge(shrink(batch.pixels, low_res_side), batch.pixels.shape[-1])
        level = larger.new_full((len(batch),), GRID.level)
        low_res = add_conditioning_noise(larger, draw_noise(rngs, larger), level)
    conditioning = Conditioning(batch.text, batch.mask, low_res=low_res)
    with run.averaged() as unet, torch.no_grad():
        generated = sample(unet, diffusion, GRID, noise, rngs, conditioning)
    if not run.accelerator.is_main_process:  # the others took part as they may hold parts of the model
        return
    images = [tensor_to_image(pixels) for pixels in (*batch.pixels, *generated)]
    buffer = io.BytesIO()
    draw_contact_sheet(images, [""] * len(images), len(batch)).save(buffer, "PNG")
    storage.write(url, buffer.getvalue())
