"""Pictures beside each other as one PNG: contact sheets of prompts, and what a stage makes while it is trained."""

import io
from itertools import islice

import torch

from data.lake import storage
from data.pictures.contact_sheet import draw_contact_sheet
from data.pictures.square import Fit
from data.reader.reader import Reader
from imagen.cascade.pipeline import tensor_to_image
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.cascade.sampling import Conditioning, draw_noise, sample
from imagen.cascade.settings import SampleSettings
from imagen.train.batches import SquareSamples, collate
from imagen.train.stage_run import Run

SHOWN = 8  # samples of a stage's grid
GRID = SampleSettings(steps=20, guidance=3.0)


def write_grid(url: str, run: Run, reader: Reader, text: str | None, fit: Fit) -> None:
    """Above, the dataset's first pictures; below, what the averaged weights make of their captions' embeddings."""
    samples = list(islice(SquareSamples(reader, run.lesson.diffusion.resolution, fit), SHOWN))
    batch = collate(samples, text).to(run.accelerator.device)
    rngs = [torch.Generator().manual_seed(number) for number in range(len(batch))]
    noise, small = draw_noise(rngs, batch.pixels), None
    if run.lesson.small_side:
        larger = enlarge(shrink(batch.pixels, run.lesson.small_side), batch.pixels.shape[-1])
        small = add_conditioning_noise(larger, draw_noise(rngs, larger), larger.new_full((len(batch),), GRID.level))
    with run.averaged() as unet, torch.no_grad():
        made = sample(unet, run.lesson.diffusion, GRID, noise, rngs, Conditioning(batch.text, batch.seen, small=small))
    if not run.accelerator.is_main_process:  # a part of the model may be there: all must take part so far
        return
    pictures = [tensor_to_image(pixels) for pixels in (*batch.pixels, *made)]
    buffer = io.BytesIO()
    draw_contact_sheet(pictures, [""] * len(pictures), len(batch)).save(buffer, "PNG")
    storage.write(url, buffer.getvalue())
