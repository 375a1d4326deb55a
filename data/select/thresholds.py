"""The numeric thresholds of a recipe, which plots draw over the distribution of each fact."""

from collections.abc import Iterator
from dataclasses import dataclass

from data.select.criteria import OTHER, AnyOf, Bounds, Criterion, Top
from data.select.selection import Cuts, Selection

# For each bound of `Bounds`: whether values above it are kept, and whether values equal to it are.
BOUND_KINDS = {"min": (True, True), "above": (True, False), "max": (False, True), "below": (False, False)}


@dataclass(frozen=True)
class Threshold:
    """A number that separates the kept values of a fact from the dropped ones.

    Attributes:
        fact: the fact whose values it separates.
        value: the threshold itself.
        label: the text in a plot, such as `min 0.28 (en)`.
        keeps_above: True if values above the threshold are kept, False if values below it are.
        keeps_equal: True if a value equal to the threshold is kept.
        group: the threshold applies only to rows with this value of another fact; empty if it applies to all rows.
    """

    fact: str
    value: float
    label: str
    keeps_above: bool
    keeps_equal: bool
    group: str = ""


def thresholds(selection: Selection, cuts: Cuts) -> dict[str, list[Threshold]]:
    """Return the thresholds of each fact. Thresholds for all rows come before those for one group of rows.

    Args:
        selection: the criteria.
        cuts: the cuts of `Top` criteria, as recorded with the verdicts.
    """
    by_fact: dict[str, list[Threshold]] = {}
    for position, criterion in enumerate(selection.criteria, start=1):
        if isinstance(criterion, Top):
            criterion_thresholds = _of_top(criterion, cuts.get(selection.fingerprint_until(position), {}))
        else:
            criterion_thresholds = _of_bounds(criterion)
        for threshold in criterion_thresholds:
            by_fact.setdefault(threshold.fact, []).append(threshold)
    return {fact: sorted(group, key=lambda threshold: threshold.group != "") for fact, group in by_fact.items()}


def _of_top(criterion: Top, cuts: dict[str, list[float | str]]) -> Iterator[Threshold]:
    for group, (value, _) in cuts.items():
        label = f"best {criterion.top:.4g}{f' ({group})' if group else ''}"
        yield Threshold(criterion.fact, float(value), label, True, True, group)


def _of_bounds(criterion: Criterion, prefix: str = "") -> Iterator[Threshold]:
    if isinstance(criterion, AnyOf):
        for option in criterion.options:
            for bounds in option.values():
                yield from _of_bounds(bounds, "any of: ")
    elif isinstance(criterion, Bounds):
        for kind, (keeps_above, keeps_equal) in BOUND_KINDS.items():
            bound = getattr(criterion, kind)
            values = bound if isinstance(bound, dict) else {"": bound}
            for group, value in values.items():
                if value is not None:
                    label = f"{prefix}{kind} {value:g}{_group_words(group)}"
                    yield Threshold(criterion.fact, value, label, keeps_above, keeps_equal, group)


def _group_words(group: str) -> str:
    if not group:
        return ""
    return " (others)" if group == OTHER else f" ({group})"
