"""Pictures beside each other as one PNG: contact sheets of prompts, and what a stage makes while it is trained."""

import io
import textwrap
from collections.abc import Sequence
from itertools import islice

import torch
from PIL import Image, ImageDraw, ImageFont

from data.lake import storage
from data.reader.reader import Reader
from imagen.cascade.pipeline import picture_of
from imagen.cascade.resize import augmented, enlarged, shrunk
from imagen.cascade.sampling import Asked, SampleSettings, drawn, sample
from imagen.train.batches import Fit, Squares, collate
from imagen.train.stage_run import Run

CELL = 128  # pixels, to which smaller pictures are enlarged
GAP, LINE, INK = 8, 15, "#222222"
SHOWN = 8  # samples of a stage's grid
GRID = SampleSettings(steps=20, guidance=3.0)


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Rows of pictures, each with its caption below it."""
    cell = max(CELL, *(picture.width for picture in pictures)) if pictures else CELL
    texts = [textwrap.wrap(caption, max(8, cell // 7)) for caption in captions]
    lines = max((len(text) for text in texts), default=0)
    rows = -(-len(pictures) // columns)
    wide, high = cell + GAP, cell + GAP + (LINE * lines + GAP if lines else 0)
    whole = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for place, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = GAP + place % columns * wide, GAP + place // columns * high
        shown = picture.resize((cell, cell), Image.Resampling.BICUBIC) if picture.width < cell else picture
        whole.paste(shown, (x, y))
        draw.multiline_text((x, y + cell + 2), "\n".join(text), INK, font)
    return whole


def write_grid(url: str, run: Run, reader: Reader, text: str | None, fit: Fit) -> None:
    """Above, the dataset's first pictures; below, what the averaged weights make of their captions' embeddings."""
    samples = list(islice(Squares(reader, run.lesson.diffusion.resolution, fit), SHOWN))
    batch = collate(samples, text).to(run.accelerator.device)
    rngs = [torch.Generator().manual_seed(number) for number in range(len(batch))]
    noise, small = drawn(rngs, batch.pixels), None
    if run.lesson.small_side:
        larger = enlarged(shrunk(batch.pixels, run.lesson.small_side), batch.pixels.shape[-1])
        small = augmented(larger, drawn(rngs, larger), larger.new_full((len(batch),), GRID.level))
    with run.averaged() as unet, torch.no_grad():
        made = sample(unet, run.lesson.diffusion, GRID, noise, rngs, Asked(batch.text, batch.seen, small=small))
    if not run.accelerator.is_main_process:  # a part of the model may be there: all must take part so far
        return
    pictures = [picture_of(pixels) for pixels in (*batch.pixels, *made)]
    buffer = io.BytesIO()
    sheet(pictures, [""] * len(pictures), len(batch)).save(buffer, "PNG")
    storage.write(url, buffer.getvalue())
