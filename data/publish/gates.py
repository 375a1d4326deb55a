"""Gates: conditions that the selected rows must meet before they are published as a version.

A closed gate only prevents the new version. Fetched pictures and scores stay in the lake, and the previous version
stays current.
"""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import GateClosed
from data.lake.lake import Lake
from data.lake.sql import query
from data.publish.distributions import Distributions
from data.publish.publish import Publish
from data.publish.versions import Version, newest_version
from data.select.facts import NOT_FETCHED


class _GateSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(_GateSettings):
    """A lower bound for the number of rows."""

    min: int = Field(ge=1, description="smallest number of rows that may be published")


class KeptShare(_GateSettings):
    """Bounds for the share of kept pairs. Pairs without a picture do not count, as the recipe is not the cause."""

    min: float = Field(0.0, ge=0, le=1, description="smallest kept share of the pairs with a picture")
    max: float = Field(1.0, ge=0, le=1, description="largest kept share of the pairs with a picture")

    @model_validator(mode="after")
    def _min_is_not_above_max(self) -> "KeptShare":
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class Drift(_GateSettings):
    """An upper bound for the change of each score's distribution."""

    max: float = Field(
        gt=0, le=1, description="largest Kolmogorov-Smirnov distance of any score from the version before"
    )


class Gates(_GateSettings):
    """The gates of a recipe. A gate that is not set is open."""

    rows: Rows | None = Field(None, description="bound for the number of rows")
    kept_share: KeptShare | None = Field(None, description="bounds for the share of pairs that is kept")
    drift: Drift | None = Field(None, description="bound for the change of scores since the version before")
    no_nulls: bool | tuple[str, ...] = Field(False, description="columns that must have no null; true: all columns")


def pass_gates(lake: Lake, gates: Gates, publish: Publish) -> None:
    """Check the rows that would be published now.

    Raises:
        GateClosed: a gate is closed. The message names every failed check with its number and its bound.
    """
    before = newest_version(lake, publish.dataset)
    failures = list(_failures(lake, gates, publish, before))
    if failures:
        current = f"{before.dataset}@{before.version} stays current" if before else "it has no version yet"
        raise GateClosed(
            f"{publish.dataset} was not published: {'; '.join(failures)}; {current}. "
            "Change the recipe or its gates, and build again"
        )


def _failures(lake: Lake, gates: Gates, publish: Publish, before: Version | None) -> Iterator[str]:
    if gates.rows or gates.kept_share:
        kept, pictures = _count_kept(lake, publish.dataset)
        share = kept / pictures if pictures else 0.0
        if gates.rows and kept < gates.rows.min:
            yield f"{kept:,} rows are below gates.rows.min {gates.rows.min:,}"
        if gates.kept_share and share < gates.kept_share.min:
            yield f"kept share {share:.4g} is below gates.kept_share.min {gates.kept_share.min:g}"
        if gates.kept_share and share > gates.kept_share.max:
            yield f"kept share {share:.4g} is above gates.kept_share.max {gates.kept_share.max:g}"
    if gates.drift and before:
        yield from _drift_failures(lake, gates.drift.max, publish, before)
    if gates.no_nulls:
        columns = None if isinstance(gates.no_nulls, bool) else gates.no_nulls
        for column, nulls in _count_nulls(lake, publish, columns).items():
            if nulls:
                yield f"column {column} is null in {nulls:,} rows, which gates.no_nulls forbids"


def _count_kept(lake: Lake, dataset: str) -> tuple[int, int]:
    """Return the number of kept pairs, and the number of pairs with a picture."""
    row = query(
        "SELECT count(*) FILTER (kept) AS kept, "
        f"count(*) FILTER (kept OR NOT starts_with(reasons[1], '{NOT_FETCHED}')) AS pictures FROM verdicts",
        verdicts=lake.table(f"verdicts/{dataset}").dataset(),
    ).to_pylist()[0]
    return row["kept"], row["pictures"]


def _drift_failures(lake: Lake, bound: float, publish: Publish, before: Version) -> Iterator[str]:
    published = lake.table(publish.table, before.version)
    facts = [fact for fact in publish.numeric_columns if fact in published.file_schema().names]
    with Distributions(facts) as distributions:
        for bucket in lake.buckets:
            distributions.add("SELECT 'now' AS part, * FROM selected", facts, selected=publish.selected_rows(bucket))
            distributions.add("SELECT 'before' AS part, * FROM present", facts, present=published.dataset(bucket))
        for fact in facts:
            distance = distributions.ks_distance(fact, "before", "now")
            if distance is not None and distance > bound:
                yield f"{fact} drifted by {distance:.4g}, above gates.drift.max {bound:g}"


def _count_nulls(lake: Lake, publish: Publish, columns: tuple[str, ...] | None) -> dict[str, int]:
    """Count nulls in each given column of the selected rows.

    Without given columns, all columns are counted except for the picture, which is never null.
    """
    nulls: dict[str, int] = {}
    for bucket in lake.buckets:
        rows = publish.selected_rows(bucket)
        for column in columns or rows.column_names:
            nulls[column] = nulls.get(column, 0) + rows[column].null_count
    return nulls
