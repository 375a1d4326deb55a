"""What must hold before a version is published: rows, share, drift and nulls of what would be in it.

A gate that is closed stops the version and nothing else: what was fetched and scored stays, and so does the version
before.
"""

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import GateClosed
from data.lake.lake import Lake
from data.lake.sql import query
from data.publish.distributions import Distributions
from data.publish.publish import Publish
from data.publish.versions import Version, newest
from data.select.selection import NOT_FETCHED


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rows(_Part):
    min: int = Field(ge=1, description="the version has at least so many rows")


class KeptShare(_Part):
    """The share of pairs with a picture that is kept: a network that fails is not the recipe's fault."""

    min: float = Field(0.0, ge=0, le=1)
    max: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _band(self) -> "KeptShare":
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class Drift(_Part):
    max: float = Field(gt=0, le=1, description="Kolmogorov-Smirnov distance of any score from the version before")


class Gates(_Part):
    """What a recipe's `gates` may hold; one that is not given is open."""

    rows: Rows | None = None
    kept_share: KeptShare | None = None
    drift: Drift | None = None
    no_nulls: bool | tuple[str, ...] = Field(False, description="columns in which no value may be missing; true: none")


def pass_gates(lake: Lake, gates: Gates, publish: Publish) -> None:
    """Raise if a version of what is selected now must not be published."""
    before = newest(lake, publish.dataset)
    failed = list(_failures(lake, gates, publish, before))
    if failed:
        stays = f"{before.dataset}@{before.version} stays current" if before else "it has no version yet"
        raise GateClosed(
            f"{publish.dataset} was not published: {'; '.join(failed)}; {stays}. "
            "Mend the recipe or its gates, and build again"
        )


def _failures(lake: Lake, gates: Gates, publish: Publish, before: Version | None) -> Iterator[str]:
    if gates.rows or gates.kept_share:
        kept, pictures = _kept(lake, publish.dataset)
        share = kept / pictures if pictures else 0.0
        if gates.rows and kept < gates.rows.min:
            yield f"{kept:,} rows, gates.rows.min is {gates.rows.min:,}"
        if gates.kept_share and not gates.kept_share.min <= share <= gates.kept_share.max:
            bound = "min" if share < gates.kept_share.min else "max"
            yield f"share kept {share:.4g}, gates.kept_share.{bound} is {getattr(gates.kept_share, bound):g}"
    if gates.drift and before:
        yield from _drifted(lake, gates.drift.max, publish, before)
    if gates.no_nulls:
        columns = None if isinstance(gates.no_nulls, bool) else gates.no_nulls
        for column, nulls in _nulls(lake, publish, columns).items():
            if nulls:
                yield f"{column} is null in {nulls:,} rows, gates.no_nulls forbids it"


def _kept(lake: Lake, dataset: str) -> tuple[int, int]:
    """How many pairs are kept, and how many have a picture."""
    found = query(
        "SELECT count(*) FILTER (kept) AS kept, "
        f"count(*) FILTER (kept OR NOT starts_with(reasons[1], '{NOT_FETCHED}')) AS pictures FROM verdicts",
        verdicts=lake.table(f"verdicts/{dataset}").dataset(),
    ).to_pylist()[0]
    return found["kept"], found["pictures"]


def _drifted(lake: Lake, most: float, publish: Publish, before: Version) -> Iterator[str]:
    published = lake.table(publish.table, before.version)
    facts = [fact for fact in publish.numbers if fact in published.columns().names]
    with Distributions(facts) as told:
        for bucket in lake.buckets:
            told.add("SELECT 'now' AS part, * FROM wanted", facts, wanted=publish.wanted(bucket))
            told.add("SELECT 'before' AS part, * FROM present", facts, present=published.dataset(bucket))
        for fact in facts:
            apart = told.apart(fact, "before", "now")
            if apart is not None and apart > most:
                yield f"{fact} drifted by {apart:.4g}, gates.drift.max is {most:g}"


def _nulls(lake: Lake, publish: Publish, columns: tuple[str, ...] | None) -> dict[str, int]:
    """The nulls of some columns of what would be published, or of all but its picture, which is always there."""
    nulls: dict[str, int] = {}
    for bucket in lake.buckets:
        wanted = publish.wanted(bucket)
        for column in columns or wanted.column_names:
            nulls[column] = nulls.get(column, 0) + wanted[column].null_count
    return nulls
