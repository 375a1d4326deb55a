"""What there is to say of the version that was just published: its funnel, its scores, its change against the last.

Card and report are two ways to say it. Everything is counted by SQL, a bucket at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from deltalake.exceptions import DeltaError

from data.lake.lake import Lake
from data.lake.schemas import VERDICTS
from data.lake.sql import query
from data.lake.table import Table
from data.publish.distributions import Distributions, Histogram
from data.publish.publish import Publish
from data.publish.versions import Version
from data.select.funnel import Step, fell_to, funnel, labels_of
from data.select.selection import Selection, across
from data.select.thresholds import Threshold, thresholds

TENTHS = tuple(n / 10 for n in range(11))


@dataclass(frozen=True)
class Score:
    """How one fact is distributed over the pairs with a picture, and over the version before."""

    fact: str
    thresholds: list[Threshold]
    histogram: Histogram | None  # parts kept and dropped
    unknown: int
    tenths: list[float]  # of what is kept: the smallest, nine deciles, the largest
    tenths_before: list[float]
    apart: float | None  # from the version before, as Kolmogorov-Smirnov distance


@dataclass(frozen=True)
class Account:
    version: Version
    before: Version | None
    steps: list[Step]
    scores: list[Score]
    columns: pa.Schema
    files: list[str]  # relative to the table, in no order of arrival
    bytes: int
    came: dict[str, int]  # rows that are new: why they were not there before
    went: dict[str, int]  # rows that are gone: why
    lost: str | None = None  # why there is no comparison with the version before


def account(lake: Lake, selection: Selection, publish: Publish, version: Version, before: Version | None) -> Account:
    table = lake.table(publish.table, version.version)
    sizes = table.file_sizes()
    came, went, lost = dict[str, int](), dict[str, int](), None
    earlier: Table | None = None
    if before:
        try:
            earlier = lake.table(publish.table, before.version)
            came, went = _change(lake, selection, table, earlier, before)
        except (OSError, DeltaError) as error:  # its files were vacuumed, or a picture in them taken down
            earlier, lost = None, f"{before.dataset}@{before.version} can't be read any more: {error}"
    return Account(
        version,
        before,
        funnel(lake, selection),
        _scores(lake, selection, publish, earlier),
        table.file_schema(),
        sorted(sizes, key=lambda path: path.rpartition("/")[2]),
        sum(sizes.values()),
        came,
        went,
        lost,
    )


def facts_of(lake: Lake, selection: Selection, facts: list[str], more: str) -> Iterator[tuple[str, dict[str, object]]]:
    """SQL a bucket, and its tables: facts of every pair with its verdict (`more` is what else to select)."""
    inputs, verdicts = selection.inputs(lake), lake.table(selection.table)
    every = across(inputs, facts)
    columns = ", ".join([more, *(f'facts."{fact}"' for fact in facts)])
    sql = f"SELECT {columns} FROM ({selection.facts(facts)}) facts JOIN verdicts ON verdicts.id = facts.id"
    for bucket in lake.buckets:
        tables: dict[str, object] = {table: rows.dataset(bucket) for table, rows in inputs.items()}
        yield sql, {**tables, **every, "verdicts": verdicts.dataset(bucket)}


def _scores(lake: Lake, selection: Selection, publish: Publish, earlier: Table | None) -> list[Score]:
    drawn = thresholds(selection, lake.table(selection.table).last_record().get("cuts", {}))
    facts = [*drawn, *(fact for fact in publish.numeric_columns if fact not in drawn)]
    with Distributions(facts) as told:
        part = "CASE WHEN kept THEN 'kept' ELSE 'dropped' END AS part"
        for sql, tables in facts_of(lake, selection, facts, part):
            told.add(f"{sql} WHERE sha256 IS NOT NULL", facts, **tables)
        if earlier is not None:
            there = [fact for fact in publish.numeric_columns if fact in earlier.file_schema().names]
            for bucket in lake.buckets:
                told.add("SELECT 'before' AS part, * FROM published", there, published=earlier.dataset(bucket))
        return [
            Score(
                fact,
                drawn.get(fact, []),
                told.histogram(fact, ("kept", "dropped")),
                told.unknown(fact, "kept") + told.unknown(fact, "dropped"),
                told.quantiles(fact, "kept", TENTHS),
                told.quantiles(fact, "before", TENTHS),
                told.ks_distance(fact, "before", "kept"),
            )
            for fact in facts
        ]


def _change(
    lake: Lake, selection: Selection, table: Table, earlier: Table, before: Version
) -> tuple[dict[str, int], dict[str, int]]:
    """Rows that came, by what was the matter with them before; rows that went, by what is the matter now."""
    fell = fell_to(labels_of(selection))
    now = lake.table(selection.table)
    read = before.record["inputs"].get(selection.table)
    then = None if read is None else lake.table(selection.table, read)
    came, went = dict[str, int](), dict[str, int]()
    for bucket in lake.buckets:
        sides = {"now": table.dataset(bucket), "before": earlier.dataset(bucket)}
        known = then.dataset(bucket) if then else VERDICTS.empty_table()
        new = f"CASE WHEN reasons IS NULL THEN '{'new' if then else 'not noted'}' ELSE {fell} END"
        _count(came, "now", "before", new, known, sides)
        gone = f"CASE WHEN reasons IS NULL THEN 'no longer in the lake' ELSE {fell} END"
        _count(went, "before", "now", gone, now.dataset(bucket), sides)
    return came, went


def _count(
    counts: dict[str, int], there: str, not_there: str, why: str, verdicts: object, sides: dict[str, object]
) -> None:
    """Add up the ids that are on one side alone, by what verdicts say of them."""
    found = query(
        f"SELECT {why} AS why, count(*) AS times FROM (SELECT id FROM {there} ANTI JOIN {not_there} USING (id)) "
        "LEFT JOIN verdicts USING (id) GROUP BY why",
        verdicts=verdicts,
        **sides,
    )
    for row in found.to_pylist():
        counts[row["why"]] = counts.get(row["why"], 0) + row["times"]
