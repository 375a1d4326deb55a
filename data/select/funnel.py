"""The funnel of a selection: how many pairs are left after each criterion."""

from dataclasses import dataclass

from data.lake.lake import Lake
from data.lake.sql import query, quote_text
from data.select.selection import NOT_FETCHED, Selection


@dataclass(frozen=True)
class Step:
    """One row of the funnel."""

    name: str
    left: int
    dropped: int


def labels_of(selection: Selection) -> list[str]:
    """The steps of the funnel that are criteria, in order."""
    return list(dict.fromkeys(criterion.label for criterion in selection.criteria))


def fell_to(labels: list[str]) -> str:
    """SQL over a verdict: the step to which the pair fell, or 'kept'. A reason of other criteria loses its figures."""
    known = " ".join(
        f"WHEN starts_with(reasons[1], {quote_text(label)}) THEN {quote_text(label)}"
        for label in sorted(labels, key=len)[::-1]
    )
    foreign = "regexp_replace(reasons[1], '( [<>]| missed:| is | unknown|: same as|: like|: not drawn).*', '')"
    known = f"WHEN starts_with(reasons[1], 'replaced by') THEN 'replaced' {known}"
    return f"CASE WHEN kept THEN 'kept' {known} ELSE {foreign} END"


def funnel(lake: Lake, selection: Selection) -> list[Step]:
    """How many pairs are left after each criterion, in order; a pair falls to its first reason."""
    labels = labels_of(selection)
    counts = query(
        f"SELECT {fell_to(labels)} AS step, count(*) AS n FROM verdicts GROUP BY step",
        verdicts=lake.table(selection.table).dataset(),
    ).to_pylist()
    fell = {row["step"]: row["n"] for row in counts}
    left = sum(fell.values())
    steps = [Step("pairs", left, 0)]
    fetches = sorted((step for step in fell if step.startswith(NOT_FETCHED)), key=lambda step: -fell[step])
    for step in [*fetches, *(["replaced"] if "replaced" in fell else []), *labels]:
        dropped = fell.get(step, 0)
        left -= dropped
        steps.append(Step(step, left, dropped))
    return steps
