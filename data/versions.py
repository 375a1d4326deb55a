"""What was published: the versions of a dataset with their lineage, and the funnel that a build's rows went through."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.criteria import text
from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake import Lake
from data.select import Selection
from data.stage import query


@dataclass(frozen=True)
class Version:
    dataset: str
    version: int
    at: datetime
    record: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One row of the funnel."""

    name: str
    left: int
    dropped: int


def versions(lake: Lake, dataset: str) -> list[Version]:
    """Every version of a dataset, newest first."""
    table = lake.find(f"datasets/{dataset}")
    if table is None:
        raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: imagen build RECIPE --lake {lake.url}")
    return [
        Version(dataset, version, datetime.fromtimestamp(at / 1000, UTC), record)
        for version, at, record in table.records()
    ]


def version_of(lake: Lake, dataset: str, number: int | None = None) -> Version:
    """One version of a dataset, the newest unless told which."""
    found = versions(lake, dataset)
    if number is None and found:
        return found[0]
    for version in found:
        if version.version == number:
            return version
    there = ", ".join(f"{dataset}@{version.version}" for version in found) or "none yet"
    raise DatasetVersionNotFound(f"{dataset}@{number} does not exist in {lake.url}; there are: {there}")


def funnel(lake: Lake, selection: Selection) -> list[Step]:
    """How many pairs are left after each criterion, in order; a pair falls to its first reason."""
    verdicts = lake.table(selection.table)
    labels = list(dict.fromkeys(criterion.label for criterion in selection.criteria))
    known = " ".join(
        f"WHEN starts_with(reasons[1], {text(label)}) THEN {text(label)}" for label in sorted(labels, key=len)[::-1]
    )
    counts = query(
        "SELECT CASE WHEN kept THEN 'kept' WHEN starts_with(reasons[1], 'replaced by') THEN 'replaced' "
        f"{known} ELSE reasons[1] END AS step, count(*) AS n FROM verdicts GROUP BY step",
        verdicts=verdicts.dataset(),
    ).to_pylist()
    fell = {row["step"]: row["n"] for row in counts}
    left = sum(fell.values())
    steps = [Step("pairs", left, 0)]
    fetches = sorted((step for step in fell if step.startswith("not fetched")), key=lambda step: -fell[step])
    for step in [*fetches, *(["replaced"] if "replaced" in fell else []), *labels]:
        dropped = fell.get(step, 0)
        left -= dropped
        steps.append(Step(step, left, dropped))
    return steps
