"""`report.html`: one self-contained page on a dataset version, for whoever wants to see what was kept and what was not.

Captions, URLs and reasons are hostile text: the template escapes all that it is given, makes no links of it, and the
page's own policy forbids scripts and requests.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from data.publish.distributions import Histogram
from data.report.card import as_yaml, written
from data.report.examples import Group
from data.report.summary import Account
from data.select.funnel import Step
from data.select.selection import NOT_FETCHED
from data.select.thresholds import Threshold

WIDTH, HEIGHT = 320, 84  # of a plot's bars, in the units of its drawing
LINE = 11  # of the labels above them
TICKS = 5
MOST_CUTS = 6  # thresholds drawn for one fact: one for each of a hundred languages would hide the rest


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    kept: float  # heights
    dropped: float
    words: str


@dataclass(frozen=True)
class Mark:
    """A labelled place on the axis; `place` numbers the labels that lie above one another."""

    x: float
    words: str
    anchor: str = "middle"
    place: int = 0


@dataclass(frozen=True)
class Plot:
    bars: list[Bar]
    cuts: list[Mark]
    more_cuts: int
    ticks: list[Mark]
    beyond: str  # what the outer bins hold besides


def report(account: Account, groups: list[Group], mark: str) -> str:
    """The page's text. `mark` says what it was made of."""
    record = account.version.record
    shown = [(score, score.histogram) for score in account.scores if score.histogram]
    return _page().render(
        mark=mark,
        account=account,
        version=account.version,
        before=account.before,
        record=record,
        pictures=sum(group.rows for group in groups),
        steps=_funnel(account.steps),
        not_fetched=[step for step in account.steps if step.name.startswith(NOT_FETCHED)],
        plots=[(score, plot(one, score.thresholds)) for score, one in shown if one.low < one.high],
        constant=[(score, one.low) for score, one in shown if one.low == one.high],
        silent=[score for score in account.scores if not score.histogram],
        shifts=sorted((score for score in account.scores if score.apart), key=lambda score: -(score.apart or 0)),
        groups=groups,
        recipe=as_yaml(written(record["recipe"])),
        size={"width": WIDTH, "height": HEIGHT, "line": LINE},
    )


def plot(histogram: Histogram, cuts: list[Threshold]) -> Plot:
    """Where the bars, the thresholds and the ticks of a histogram lie."""
    first, last = histogram.edges[0], histogram.edges[-1]

    def across(value: float) -> float:
        return round(min(1.0, max(0.0, (value - first) / (last - first))) * WIDTH, 1)

    def tall(count: int) -> float:
        return round(max(1.0, count / most * HEIGHT), 1) if count else 0.0

    both = list(zip(histogram.counts["kept"], histogram.counts["dropped"], strict=True))
    most = max(sum(pair) for pair in both)
    bars = []
    for (kept, dropped), left, right in zip(both, histogram.edges, histogram.edges[1:], strict=False):
        if kept or dropped:
            where = number(left) if histogram.is_integer and right - left == 1 else f"{number(left)} to {number(right)}"
            words = f"{where}: {kept:,} kept, {dropped:,} dropped"
            bars.append(Bar(across(left), round(across(right) - across(left), 1), tall(kept), tall(dropped), words))
    marks = []
    for place, cut in enumerate(sorted(cuts[:MOST_CUTS], key=lambda cut: cut.value)):
        value = _between_bars(cut) if histogram.is_integer else cut.value
        outside = " ←" if value < first else " →" if value > last else ""
        marks.append(Mark(across(value), cut.words + outside, "start" if across(value) < WIDTH / 2 else "end", place))
    ticks = [Mark(across(tick + (0.5 if histogram.is_integer else 0)), number(tick)) for tick in _ticks(histogram)]
    beyond = [f"smallest {number(histogram.low)}"] if histogram.low < first else []
    beyond += [f"largest {number(histogram.high)}"] if histogram.high > last else []
    return Plot(bars, marks, len(cuts[MOST_CUTS:]), ticks, ", ".join(beyond))


def number(value: float | None) -> str:
    """A figure as short as a person wants it."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def in_bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


@lru_cache(maxsize=1)
def _page() -> Template:
    environment = Environment(
        loader=PackageLoader("data", "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "count": "{:,}".format, "share": "{:.1%}".format, "bytes": in_bytes}
    return environment.get_template("report.html")


def _between_bars(cut: Threshold) -> float:
    """The bar of a whole number begins at it: a threshold lies where the first bar on its right begins."""
    return math.floor(cut.value) + 1 if cut.keeps_right != cut.keeps_itself else math.ceil(cut.value)


def _ticks(histogram: Histogram) -> list[float]:
    """Round numbers along the axis."""
    first, last = histogram.edges[0], histogram.edges[-1]
    rough = (last - first) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    step = max(1.0, step) if histogram.is_integer else step
    last -= 1 if histogram.is_integer else 0
    return [n * step for n in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _funnel(steps: list[Step]) -> list[Step]:
    """The funnel with all that was not fetched as one step."""
    missing = [step for step in steps if step.name.startswith(NOT_FETCHED)]
    if not missing:
        return steps
    one = Step(NOT_FETCHED, missing[-1].left, sum(step.dropped for step in missing))
    return [steps[0], one, *(step for step in steps[1:] if step not in missing)]
