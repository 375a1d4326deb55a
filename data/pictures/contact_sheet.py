"""Draws a contact sheet: one picture that shows several pictures with their captions."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 128  # pixels; smaller pictures are enlarged to this size
GAP, LINE, INK = 8, 15, "#222222"


def draw_contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """Draw pictures in rows of `columns`, each with its caption below. Cells are as wide as the widest picture."""
    cell = max(CELL, *(picture.width for picture in pictures)) if pictures else CELL
    texts = [textwrap.wrap(caption, max(8, cell // 7)) for caption in captions]
    lines = max((len(text) for text in texts), default=0)
    rows = -(-len(pictures) // columns)
    step_x, step_y = cell + GAP, cell + GAP + (LINE * lines + GAP if lines else 0)
    sheet = Image.new("RGB", (columns * step_x + GAP, rows * step_y + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        x, y = GAP + place % columns * step_x, GAP + place // columns * step_y
        scaled = picture.resize((cell, cell), Image.Resampling.BICUBIC) if picture.width < cell else picture
        sheet.paste(scaled, (x, y))
        draw.multiline_text((x, y + cell + 2), "\n".join(text), INK, font)
    return sheet
