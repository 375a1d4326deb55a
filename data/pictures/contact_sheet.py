"""Pictures in rows with their captions below, as one picture."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 128  # pixels, to which smaller pictures are enlarged
GAP, LINE, INK = 8, 15, "#222222"


def draw_contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
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
