"""Draws a contact sheet of a dataset as one PNG: some kept pictures, and some dropped pictures with the reason."""

import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from data.lake.lake import Lake
from data.lake.reading import read_pictures
from data.lake.sql import query
from data.pictures.prepare import decode

CELL, TEXT, COLUMNS = 180, 56, 6  # pixels of a picture's side and of the text below it; cells in a row
INK, GREEN, RED = "#222222", "#1a7f37", "#cf222e"


class Cell(NamedTuple):
    """A picture on the sheet. A kept picture has no reason."""

    picture: Image.Image
    caption: str
    reason: str | None


def write_contact_sheet(lake: Lake, dataset: str, out: Path, kept: int = 12, dropped: int = 6) -> None:
    """Draw the first pairs by id, kept pairs before dropped ones, and write the sheet to `out`. Its folder is made."""
    cells = [*_pick_cells(lake, dataset, True, kept), *_pick_cells(lake, dataset, False, dropped)]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 12) + 12, rows * (CELL + TEXT + 12) + 12), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (picture, caption, reason) in enumerate(cells):
        x = 12 + index % COLUMNS * (CELL + 12)
        y = 12 + index // COLUMNS * (CELL + TEXT + 12)
        picture.thumbnail((CELL, CELL))
        sheet.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=RED if reason else GREEN, width=2)
        lines = textwrap.wrap(caption or "(no caption)", 28)[: 2 if reason else 3]
        draw.multiline_text((x, y + CELL + 4), "\n".join(lines), INK, font)
        if reason:
            draw.text((x, y + CELL + 4 + 17 * len(lines)), reason, RED, font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


def _pick_cells(lake: Lake, dataset: str, kept: bool, count: int) -> list[Cell]:
    """Pick kept or dropped pairs. Reasons take turns, so that a frequent reason does not fill the sheet."""
    ranked: list[tuple[int, Cell]] = []  # each cell with its rank among the cells with the same reason
    ranks = Counter[str | None]()
    for bucket in lake.buckets:
        rows = query(
            "SELECT id, caption, file, reasons[1] AS reason FROM verdicts JOIN pairs USING (id) JOIN images USING (id) "
            f"WHERE kept = {kept} "
            f"QUALIFY row_number() OVER (PARTITION BY reasons[1] ORDER BY id) <= {count} ORDER BY id",
            verdicts=lake.table(f"verdicts/{dataset}").dataset(bucket),
            pairs=lake.table("pairs").dataset(bucket),
            images=lake.table("images").read_with_files(bucket, ["id"]),
        )
        pictures = read_pictures(lake, rows)
        for row, picture in zip(rows.to_pylist(), pictures, strict=True):
            ranked.append((ranks[row["reason"]], Cell(decode(picture), row["caption"], row["reason"])))
            ranks[row["reason"]] += 1
    ranked.sort(key=lambda item: item[0])  # stable: equal ranks stay in the order of ids
    return [cell for _, cell in ranked[:count]]
