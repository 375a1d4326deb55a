"""What was published: the versions of a dataset with their lineage, and the funnel that a build's rows went through."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from data.engine.stage import query
from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake.lake import Lake
from data.select.criteria import text
from data.select.selection import NOT_FETCHED, Selection

RECENT = 20  # commits, among which there is one of a version if there is any


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


def datasets(lake: Lake) -> list[str]:
    """The names of those that were published."""
    return [name.removeprefix("datasets/") for name in lake.tables() if name.startswith("datasets/")]


def newest(lake: Lake, dataset: str, below: int | None = None) -> Version | None:
    """The version that is current, or the one before another; none if nothing was published yet."""
    table = lake.find(f"datasets/{dataset}")
    found = table.records(limit=None if below else RECENT) if table else ()
    return next((_version(dataset, *one) for one in found if below is None or one[0] < below), None)


def versions(lake: Lake, dataset: str) -> list[Version]:
    """Every version of a dataset, newest first."""
    table = lake.find(f"datasets/{dataset}")
    if table is None:
        raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: imagen build RECIPE --lake {lake.url}")
    return [_version(dataset, *found) for found in table.records()]


def labels_of(selection: Selection) -> list[str]:
    """The steps of the funnel that are criteria, in order."""
    return list(dict.fromkeys(criterion.label for criterion in selection.criteria))


def fell_to(labels: list[str]) -> str:
    """SQL over a verdict: the step to which the pair fell, or 'kept'. A reason of other criteria loses its figures."""
    known = " ".join(
        f"WHEN starts_with(reasons[1], {text(label)}) THEN {text(label)}" for label in sorted(labels, key=len)[::-1]
    )
    foreign = "regexp_replace(reasons[1], '( [<>]| missed:| is | unknown|: same as|: like|: not drawn).*', '')"
    known = f"WHEN starts_with(reasons[1], 'replaced by') THEN 'replaced' {known}"
    return f"CASE WHEN kept THEN 'kept' {known} ELSE {foreign} END"


def version_of(lake: Lake, dataset: str, number: int | None = None) -> Version:
    """One version of a dataset, the newest unless told which."""
    found = versions(lake, dataset)
    if number is None and found:
        return found[0]
    for version in found:
        if version.version == number:
            return version
    if not found:
        raise DatasetVersionNotFound(f"{dataset} has no version yet in {lake.url}: its first build has not published")
    there = ", ".join(f"{dataset}@{version.version}" for version in found)
    raise DatasetVersionNotFound(f"{dataset}@{number} does not exist in {lake.url}; there are: {there}")


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


def _version(dataset: str, version: int, at: int, record: dict[str, Any]) -> Version:
    return Version(dataset, version, datetime.fromtimestamp(at / 1000, UTC), record)
