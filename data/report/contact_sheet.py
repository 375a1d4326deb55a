"""A contact sheet of a dataset: some samples that were kept, and some that were not, with the reason, as one PNG."""

import textwrap
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data.lake.lake import Lake
from data.lake.reading import read_pictures
from data.lake.sql import query
from data.pictures.prepare import decode

CELL, TEXT, COLUMNS = 180, 56, 6
INK, GREEN, RED = "#222222", "#1a7f37", "#cf222e"


def write_sheet(lake: Lake, dataset: str, out: Path, kept: int = 12, dropped: int = 6) -> None:
    """Draw the first samples by id, kept ones first, into `out`."""
    cells = [cell for wanted, count in ((True, kept), (False, dropped)) for cell in _pick(lake, dataset, wanted, count)]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 12) + 12, rows * (CELL + TEXT + 12) + 12), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, (picture, caption, reason) in enumerate(cells):
        x = 12 + place % COLUMNS * (CELL + 12)
        y = 12 + place // COLUMNS * (CELL + TEXT + 12)
        picture.thumbnail((CELL, CELL))
        sheet.paste(picture, (x + (CELL - picture.width) // 2, y + (CELL - picture.height) // 2))
        draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=RED if reason else GREEN, width=2)
        lines = textwrap.wrap(caption or "(no caption)", 28)[: 2 if reason else 3]
        draw.multiline_text((x, y + CELL + 4), "\n".join(lines), INK, font)
        if reason:
            draw.text((x, y + CELL + 4 + 17 * len(lines)), reason, RED, font)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out, optimize=True)


def _pick(lake: Lake, dataset: str, kept: bool, count: int) -> list[tuple[Any, str, str | None]]:
    """Picture, caption and reason; of the dropped a few for each reason, so that one doesn't fill the sheet."""
    cells: list[tuple[Any, str, str | None]] = []
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
            cells.append((decode(picture), row["caption"], row["reason"]))
    turn: dict[str | None, int] = {}
    order: list[tuple[int, int, tuple[Any, str, str | None]]] = []
    for cell in cells:
        turn[cell[2]] = turn.get(cell[2], 0) + 1
        order.append((turn[cell[2]], len(order), cell))
    return [cell for _, _, cell in sorted(order, key=lambda item: item[:2])][:count]
