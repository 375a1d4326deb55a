"""The report's histograms as one PNG, for pages that show a picture and no page of ours."""

import io

from PIL import Image, ImageDraw, ImageFont

from data.publish.distributions import Histogram
from data.report.report import HEIGHT, WIDTH, plot
from data.report.summary import Account, Score

COLUMNS, GAP, LINE = 3, 24, 16
INK, SOFT, AXIS = "#1d1f21", "#646a70", "#e4e1dc"
KEPT, DROPPED, CUT = "#1f7a5c", "#e3a977", "#b3261e"


def histograms(account: Account) -> bytes | None:
    """One for each fact that differs among the pairs, those that a criterion looks at first; none if there is none."""
    shown = [(score, score.histogram) for score in account.scores if score.histogram]
    shown = sorted((one for one in shown if one[1].low < one[1].high), key=lambda one: not one[0].thresholds)
    if not shown:
        return None
    rows, (wide, high) = -(-len(shown) // COLUMNS), (WIDTH + GAP, HEIGHT + 3 * LINE + GAP)
    across = min(COLUMNS, len(shown))
    picture = Image.new("RGB", (across * wide + GAP, rows * high + 2 * GAP), "white")
    draw = ImageDraw.Draw(picture)
    for place, (score, histogram) in enumerate(shown):
        _draw(draw, GAP + place % COLUMNS * wide, GAP + place // COLUMNS * high, score, histogram)
    _write(draw, GAP, GAP + rows * high, "green: kept; orange: dropped; dashed: a threshold", SOFT)
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    return png.getvalue()


def _draw(draw: ImageDraw.ImageDraw, x: int, y: int, score: Score, histogram: Histogram) -> None:
    found = plot(histogram, score.thresholds)
    _write(draw, x, y, score.fact, INK)
    floor = y + LINE + HEIGHT
    for bar in found.bars:
        left, right = x + bar.x, x + max(bar.x + 1, bar.x + bar.width - 1)
        for top, bottom, colour in ((bar.kept + bar.dropped, bar.kept, DROPPED), (bar.kept, 0, KEPT)):
            if top > bottom:
                draw.rectangle((left, floor - top, right, floor - bottom), colour)
    draw.line((x, floor, x + WIDTH, floor), AXIS)
    for cut in found.cuts:
        for dash in range(y + LINE, floor, 6):
            draw.line((x + cut.x, dash, x + cut.x, min(dash + 3, floor)), CUT, 2)
    for tick in found.ticks:
        _write(draw, x + tick.x, floor + 3, tick.words, SOFT, "ma")
    if found.cuts:
        _write(draw, x + WIDTH, y, ", ".join(dict.fromkeys(cut.words for cut in found.cuts[:2])), CUT, "ra")


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, ink: str, anchor: str = "la") -> None:
    draw.text((x, y), words, ink, ImageFont.load_default(12), anchor)
