"""Where a recipe cuts: its thresholds on numbers, to be drawn over the distribution of the fact that they cut."""

from collections.abc import Iterator
from dataclasses import dataclass

from data.select.criteria import OTHER, AnyOf, Bounds, Criterion, Top
from data.select.selection import Cuts, Selection

# Of the fields of Bounds: whether what lies on the right is kept, and whether what lies on the bound is.
KINDS = {"min": (True, True), "above": (True, False), "max": (False, True), "below": (False, False)}


@dataclass(frozen=True)
class Threshold:
    fact: str
    value: float
    words: str
    keeps_right: bool
    keeps_itself: bool
    of: str = ""  # the value of another fact to which alone it applies


def thresholds(selection: Selection, cuts: Cuts) -> dict[str, list[Threshold]]:
    """Every threshold by fact, those for all rows first; of a share the cuts that were made."""
    found: dict[str, list[Threshold]] = {}
    for place, criterion in enumerate(selection.criteria, start=1):
        made = cuts.get(selection.fingerprint_until(place), {})
        for one in _of_share(criterion, made) if isinstance(criterion, Top) else _of_bounds(criterion):
            found.setdefault(one.fact, []).append(one)
    return {fact: sorted(ones, key=lambda one: one.of != "") for fact, ones in found.items()}


def _of_share(criterion: Top, made: dict[str, list[float | str]]) -> Iterator[Threshold]:
    for group, (value, _) in made.items():
        words = f"best {criterion.top:.4g}{f' ({group})' if group else ''}"
        yield Threshold(criterion.fact, float(value), words, True, True, group)


def _of_bounds(criterion: Criterion, said: str = "") -> Iterator[Threshold]:
    if isinstance(criterion, AnyOf):
        for option in criterion.options:
            for bounds in option.values():
                yield from _of_bounds(bounds, "any of: ")
    elif isinstance(criterion, Bounds):
        for kind, (right, itself) in KINDS.items():
            bound = getattr(criterion, kind)
            for group, value in (bound if isinstance(bound, dict) else {"": bound}).items():
                if value is not None:
                    which = f" ({'others' if group == OTHER else group})" if group else ""
                    yield Threshold(criterion.fact, value, f"{said}{kind} {value:g}{which}", right, itself, group)
