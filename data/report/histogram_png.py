"""Draws the report's histograms as one PNG, for places that show pictures but no HTML, such as a flow run's page."""

import io

from PIL import Image, ImageDraw, ImageFont

from data.publish.distributions import Histogram
from data.report.report import HEIGHT, WIDTH, plot_histogram
from data.report.summary import ScoreSummary, VersionSummary

COLUMNS, GAP, LINE = 3, 24, 16  # plots in a row; pixels between plots; pixels of a line of text
INK, SOFT, AXIS = "#1d1f21", "#646a70", "#e4e1dc"
KEPT, DROPPED, CUT = "#1f7a5c", "#e3a977", "#b3261e"


def draw_histograms(summary: VersionSummary) -> bytes | None:
    """Draw a histogram of each fact (such as a score) with more than one value. None if there is no such fact.

    Facts with a threshold come first.
    """
    plots = [(score, score.histogram) for score in summary.scores if score.histogram]
    plots = [(score, histogram) for score, histogram in plots if histogram.low < histogram.high]
    plots.sort(key=lambda plot: not plot[0].thresholds)
    if not plots:
        return None
    rows, (cell_width, cell_height) = -(-len(plots) // COLUMNS), (WIDTH + GAP, HEIGHT + 3 * LINE + GAP)
    columns = min(COLUMNS, len(plots))
    picture = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + 2 * GAP), "white")
    draw = ImageDraw.Draw(picture)
    for index, (score, histogram) in enumerate(plots):
        x, y = GAP + index % COLUMNS * cell_width, GAP + index // COLUMNS * cell_height
        _draw_histogram(draw, x, y, score, histogram)
    _write(draw, GAP, GAP + rows * cell_height, "green: kept; orange: dropped; dashed: a threshold", SOFT)
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    return png.getvalue()


def _draw_histogram(draw: ImageDraw.ImageDraw, x: int, y: int, score: ScoreSummary, histogram: Histogram) -> None:
    plot = plot_histogram(histogram, score.thresholds)
    _write(draw, x, y, score.fact, INK)
    baseline = y + LINE + HEIGHT
    for bar in plot.bars:
        left, right = x + bar.x, x + max(bar.x + 1, bar.x + bar.width - 1)
        for top, bottom, colour in ((bar.kept + bar.dropped, bar.kept, DROPPED), (bar.kept, 0, KEPT)):
            if top > bottom:
                draw.rectangle((left, baseline - top, right, baseline - bottom), colour)
    draw.line((x, baseline, x + WIDTH, baseline), AXIS)
    for cut in plot.cuts:
        for dash in range(y + LINE, baseline, 6):
            draw.line((x + cut.x, dash, x + cut.x, min(dash + 3, baseline)), CUT, 2)
    for tick in plot.ticks:
        _write(draw, x + tick.x, baseline + 3, tick.text, SOFT, "ma")
    if plot.cuts:
        _write(draw, x + WIDTH, y, ", ".join(dict.fromkeys(cut.text for cut in plot.cuts[:2])), CUT, "ra")


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str, anchor: str = "la") -> None:
    draw.text((x, y), text, colour, ImageFont.load_default(12), anchor)
