"""Renders `report.html`: a self-contained page about a dataset version, to check which pairs were kept and dropped.

Captions, URLs and reasons are untrusted text. So the template escapes all values and makes no links from them, and the
page's content security policy forbids scripts and requests.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from data.publish.distributions import Histogram
from data.report.card import as_yaml, settings_as_written
from data.report.chart import round_step
from data.report.examples import ExampleGroup
from data.report.summary import VersionSummary
from data.select.facts import NOT_FETCHED
from data.select.funnel import FunnelStep
from data.select.thresholds import Threshold

WIDTH, HEIGHT = 320, 84  # size of a histogram's area of bars, in units of its drawing
LABEL_LINE = 11  # height of a threshold's label
TICKS = 5
MAX_CUTS = 6  # thresholds drawn for one fact; thresholds for a hundred languages would hide the bars


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, with kept pairs at the bottom and dropped pairs on top."""

    x: float
    width: float
    kept: float  # height
    dropped: float  # height
    tooltip: str


@dataclass(frozen=True)
class Label:
    """A label at a position on the x axis. Labels of thresholds are on several lines, given by `line`."""

    x: float
    text: str
    anchor: str = "middle"
    line: int = 0


@dataclass(frozen=True)
class Plot:
    """The drawing of a histogram."""

    bars: list[Bar]
    cuts: list[Label]  # thresholds
    more_cuts: int  # thresholds that are not drawn
    ticks: list[Label]
    outliers: str  # the extreme values that are counted in the outermost bars; empty if there are none


def render_report(summary: VersionSummary, groups: list[ExampleGroup], mark: str) -> str:
    """Render the page as HTML.

    Args:
        summary: the version to describe.
        groups: example pairs.
        mark: a line that identifies version and settings; see `data/report/write.py`.
    """
    record = summary.version.record
    histograms = [(score, score.histogram) for score in summary.scores if score.histogram]
    return _template().render(
        mark=mark,
        summary=summary,
        version=summary.version,
        before=summary.before,
        record=record,
        pictures=sum(group.rows for group in groups),
        steps=_merge_not_fetched(summary.steps),
        not_fetched=[step for step in summary.steps if step.name.startswith(NOT_FETCHED)],
        plots=[
            (score, plot_histogram(histogram, score.thresholds))
            for score, histogram in histograms
            if histogram.low < histogram.high
        ],
        constant=[(score, histogram.low) for score, histogram in histograms if histogram.low == histogram.high],
        unknown=[score for score in summary.scores if not score.histogram],
        shifts=sorted(
            (score for score in summary.scores if score.ks_distance), key=lambda score: -(score.ks_distance or 0)
        ),
        groups=groups,
        recipe=as_yaml(settings_as_written(record["recipe"])),
        size={"width": WIDTH, "height": HEIGHT, "line": LABEL_LINE},
    )


def plot_histogram(histogram: Histogram, cuts: list[Threshold]) -> Plot:
    """Lay out the bars, thresholds and ticks of a histogram that has the parts `kept` and `dropped`."""
    first, last = histogram.edges[0], histogram.edges[-1]
    counts = list(zip(histogram.counts["kept"], histogram.counts["dropped"], strict=True))
    largest = max(kept + dropped for kept, dropped in counts)

    def x_of(value: float) -> float:
        return round(min(1.0, max(0.0, (value - first) / (last - first))) * WIDTH, 1)

    def height_of(count: int) -> float:
        return round(max(1.0, count / largest * HEIGHT), 1) if count else 0.0

    bars = []
    for (kept, dropped), left, right in zip(counts, histogram.edges, histogram.edges[1:], strict=False):
        if kept or dropped:
            is_single_value = histogram.is_integer and right - left == 1
            values = format_number(left) if is_single_value else f"{format_number(left)} to {format_number(right)}"
            tooltip = f"{values}: {kept:,} kept, {dropped:,} dropped"
            width = round(x_of(right) - x_of(left), 1)
            bars.append(Bar(x_of(left), width, height_of(kept), height_of(dropped), tooltip))
    labels = []
    for line, cut in enumerate(sorted(cuts[:MAX_CUTS], key=lambda cut: cut.value)):
        value = _bar_edge_of(cut) if histogram.is_integer else cut.value
        arrow = " ←" if value < first else " →" if value > last else ""  # the threshold is outside the plot
        anchor = "start" if x_of(value) < WIDTH / 2 else "end"
        labels.append(Label(x_of(value), cut.label + arrow, anchor, line))
    middle_of_bar = 0.5 if histogram.is_integer else 0
    ticks = [Label(x_of(tick + middle_of_bar), format_number(tick)) for tick in _tick_values(histogram)]
    outliers = [f"smallest {format_number(histogram.low)}"] if histogram.low < first else []
    outliers += [f"largest {format_number(histogram.high)}"] if histogram.high > last else []
    return Plot(bars, labels, len(cuts[MAX_CUTS:]), ticks, ", ".join(outliers))


def format_number(value: float | None) -> str:
    """Format a number for display, with three significant digits or as a whole number with thousands separators."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def format_bytes(size: float) -> str:
    """Format a size in bytes for display, in decimal units.

    Example:
        >>> format_bytes(123_456)
        '123 kB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("data", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": format_number,
        "count": "{:,}".format,
        "share": "{:.1%}".format,
        "bytes": format_bytes,
    }
    return environment.get_template("report.html")


def _bar_edge_of(cut: Threshold) -> float:
    """Return where to draw a threshold among whole numbers: the left edge of the first bar to the right of it."""
    return math.floor(cut.value) + 1 if cut.keeps_above != cut.keeps_equal else math.ceil(cut.value)


def _tick_values(histogram: Histogram) -> list[float]:
    """Choose round tick values within the range of the axis."""
    first, last = histogram.edges[0], histogram.edges[-1]
    step = round_step((last - first) / TICKS)
    step = max(1.0, step) if histogram.is_integer else step
    last -= 1 if histogram.is_integer else 0
    return [n * step for n in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _merge_not_fetched(steps: list[FunnelStep]) -> list[FunnelStep]:
    """Merge all steps for pictures that were not fetched into one step of the funnel."""
    not_fetched = [step for step in steps if step.name.startswith(NOT_FETCHED)]
    if not not_fetched:
        return steps
    merged = FunnelStep(NOT_FETCHED, not_fetched[-1].left, sum(step.dropped for step in not_fetched))
    return [steps[0], merged, *(step for step in steps[1:] if step not in not_fetched)]
