"""The funnel of a selection: how many pairs are left after each criterion."""

from dataclasses import dataclass

from data.lake.lake import Lake
from data.lake.sql import query, quote_text
from data.select.facts import NOT_FETCHED
from data.select.selection import Selection


@dataclass(frozen=True)
class FunnelStep:
    """One row of the funnel: a criterion, the number of pairs left after it, and the number that it dropped."""

    name: str
    left: int
    dropped: int


def step_labels(selection: Selection) -> list[str]:
    """Return the names of those steps of the funnel that are criteria, in order."""
    return list(dict.fromkeys(criterion.label for criterion in selection.criteria))


def step_sql(labels: list[str]) -> str:
    """Return a SQL expression over a verdict: the name of the step that dropped the pair, or 'kept'.

    A verdict may be older than the criteria in `labels`. If none of them gave the reason, the name of the step is the
    reason without its numbers.

    Args:
        labels: the names of the steps, as `step_labels` returns them.
    """
    cases = ["WHEN starts_with(reasons[1], 'replaced by') THEN 'replaced'"]
    for label in sorted(labels, key=len)[::-1]:  # the longest first: one label may begin with another
        cases.append(f"WHEN starts_with(reasons[1], {quote_text(label)}) THEN {quote_text(label)}")
    without_figures = "regexp_replace(reasons[1], '( [<>]| missed:| is | unknown|: same as|: like|: not drawn).*', '')"
    return f"CASE WHEN kept THEN 'kept' {' '.join(cases)} ELSE {without_figures} END"


def funnel(lake: Lake, selection: Selection) -> list[FunnelStep]:
    """Compute the funnel from a dataset's newest verdicts.

    Returns:
        The steps in order: all pairs, the reasons for missing pictures (the most frequent first), replaced pairs, and
        the criteria. A pair with several reasons counts only for the first of them.
    """
    labels = step_labels(selection)
    rows = query(
        f"SELECT {step_sql(labels)} AS step, count(*) AS n FROM verdicts GROUP BY step",
        verdicts=lake.table(selection.table).dataset(),
    ).to_pylist()
    counts = {row["step"]: row["n"] for row in rows}
    left = sum(counts.values())
    steps = [FunnelStep("pairs", left, 0)]
    fetch_steps = sorted((step for step in counts if step.startswith(NOT_FETCHED)), key=lambda step: -counts[step])
    for step in [*fetch_steps, *(["replaced"] if "replaced" in counts else []), *labels]:
        dropped = counts.get(step, 0)
        left -= dropped
        steps.append(FunnelStep(step, left, dropped))
    return steps
