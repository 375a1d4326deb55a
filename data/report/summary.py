"""Summarises a newly published version for card and report: funnel, scores, and changes since the previous version.

A fact is a number per pair, such as a score or the picture's width. All numbers are computed by SQL, one bucket at a
time.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from deltalake.exceptions import DeltaError

from data.lake.lake import Lake
from data.lake.schemas import VERDICTS
from data.lake.sql import query, quote_name
from data.lake.table import Table
from data.publish.distributions import Distributions, Histogram
from data.publish.publish import Publish
from data.publish.versions import Version
from data.select.criteria import number_sql
from data.select.facts import read_whole_lake
from data.select.funnel import FunnelStep, funnel, step_labels, step_sql
from data.select.selection import Selection
from data.select.thresholds import Threshold, thresholds

DECILES = tuple(n / 10 for n in range(11))  # with the smallest and the largest value


@dataclass(frozen=True)
class ScoreSummary:
    """The distribution of one fact over all pairs with a picture, compared with the previous version."""

    fact: str
    thresholds: list[Threshold]
    histogram: Histogram | None  # its parts are `kept` and `dropped`; None if no value is known
    unknown: int  # pairs without a value
    deciles: list[float]  # of the kept pairs; empty if no value is known
    deciles_before: list[float]  # of the previous version; empty if there is none
    ks_distance: float | None  # Kolmogorov-Smirnov distance from the previous version


@dataclass(frozen=True)
class VersionSummary:
    """A dataset version with the numbers that describe it."""

    version: Version
    before: Version | None
    steps: list[FunnelStep]  # steps of the funnel
    scores: list[ScoreSummary]
    columns: pa.Schema
    files: list[str]  # paths within the table, ordered by their random names
    bytes: int
    added: dict[str, int]  # reason why added rows were not in the previous version → number of rows
    removed: dict[str, int]  # reason why removed rows are not in this version → number of rows
    comparison_error: str | None = None  # reason why there is no comparison with the previous version


def summarize_version(
    lake: Lake, selection: Selection, publish: Publish, version: Version, before: Version | None
) -> VersionSummary:
    """Compute the numbers that describe the current version.

    Args:
        lake: a snapshot of the lake in which `version` is current.
        selection: the recipe's selection, by whose verdicts the version was made.
        publish: the stage that published the version.
        version: the version to describe.
        before: the version to compare with. If its files are gone, the summary says so.
    """
    table = lake.table(publish.table, version.version)
    sizes = table.file_sizes()
    added, removed, comparison_error = Counter[str](), Counter[str](), None
    table_before: Table | None = None
    if before:
        try:
            table_before = lake.table(publish.table, before.version)
            added, removed = _count_changes(lake, selection, table, table_before, before)
        except (OSError, DeltaError) as error:  # its files were vacuumed, or a row in them was forgotten
            table_before = None
            comparison_error = f"{before.dataset}@{before.version} can't be read any more: {error}"
    return VersionSummary(
        version,
        before,
        funnel(lake, selection),
        _summarize_scores(lake, selection, publish, table_before),
        table.file_schema(),
        sorted(sizes, key=lambda path: path.rpartition("/")[2]),
        sum(sizes.values()),
        dict(added),
        dict(removed),
        comparison_error,
    )


def fact_queries(
    lake: Lake, selection: Selection, facts: list[str], columns: str
) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield one query per bucket for facts of all pairs, joined with their verdicts.

    Columns of the source are converted to numbers.

    Args:
        lake: the lake to read.
        selection: the selection whose facts and verdicts are read.
        facts: the facts to select.
        columns: further SQL expressions to select, over `facts` and `verdicts`.

    Returns:
        The SQL, and the tables that it names.
    """
    inputs, verdicts = selection.inputs(lake), lake.table(selection.table)
    whole_tables = read_whole_lake(inputs, facts)
    select = ", ".join([columns, *(f"{number_sql(fact)} AS {quote_name(fact)}" for fact in facts)])
    sql = f"SELECT {select} FROM ({selection.facts_sql(facts)}) facts JOIN verdicts ON verdicts.id = facts.id"
    for bucket in lake.buckets:
        tables: dict[str, object] = {table: rows.dataset(bucket) for table, rows in inputs.items()}
        yield sql, {**tables, **whole_tables, "verdicts": verdicts.dataset(bucket)}


def _summarize_scores(
    lake: Lake, selection: Selection, publish: Publish, table_before: Table | None
) -> list[ScoreSummary]:
    cuts = thresholds(selection, lake.table(selection.table).last_record().get("cuts", {}))
    facts = [*cuts, *(column for column in publish.numeric_columns if column not in cuts)]
    with Distributions(facts) as distributions:
        part = "CASE WHEN kept THEN 'kept' ELSE 'dropped' END AS part"
        for sql, tables in fact_queries(lake, selection, facts, part):
            distributions.add(f"{sql} WHERE sha256 IS NOT NULL", facts, **tables)
        if table_before is not None:
            names_before = table_before.file_schema().names
            columns = [column for column in publish.numeric_columns if column in names_before]
            sql = "SELECT 'before' AS part, * FROM published"
            for bucket in lake.buckets:
                distributions.add(sql, columns, published=table_before.dataset(bucket))
        return [
            ScoreSummary(
                fact,
                cuts.get(fact, []),
                distributions.histogram(fact, ("kept", "dropped")),
                distributions.unknown_count(fact, "kept") + distributions.unknown_count(fact, "dropped"),
                distributions.quantiles(fact, "kept", DECILES),
                distributions.quantiles(fact, "before", DECILES),
                distributions.ks_distance(fact, "before", "kept"),
            )
            for fact in facts
        ]


def _count_changes(
    lake: Lake, selection: Selection, table: Table, table_before: Table, before: Version
) -> tuple[Counter[str], Counter[str]]:
    """Count added rows by their previous verdicts, and removed rows by their present verdicts."""
    step = step_sql(step_labels(selection))
    verdicts = lake.table(selection.table)
    version_read = before.record["inputs"].get(selection.table)
    verdicts_before = None if version_read is None else lake.table(selection.table, version_read)
    no_verdict = "new pair" if verdicts_before else "verdict not recorded"
    why_added = f"CASE WHEN reasons IS NULL THEN '{no_verdict}' ELSE {step} END"
    why_removed = f"CASE WHEN reasons IS NULL THEN 'no longer in the lake' ELSE {step} END"
    added, removed = Counter[str](), Counter[str]()
    for bucket in lake.buckets:
        rows, rows_before = table.dataset(bucket), table_before.dataset(bucket)
        known_before = verdicts_before.dataset(bucket) if verdicts_before else VERDICTS.empty_table()
        added.update(_count_missing(rows, rows_before, why_added, known_before))
        removed.update(_count_missing(rows_before, rows, why_removed, verdicts.dataset(bucket)))
    return added, removed


def _count_missing(rows: object, other_rows: object, why: str, verdicts: object) -> dict[str, int]:
    """Count the ids in `rows` that are not in `other_rows`, grouped by the SQL expression `why` over their verdicts."""
    counts = query(
        f"SELECT {why} AS why, count(*) AS times FROM (SELECT id FROM rows ANTI JOIN other_rows USING (id)) "
        "LEFT JOIN verdicts USING (id) GROUP BY why",
        rows=rows,
        other_rows=other_rows,
        verdicts=verdicts,
    )
    return {row["why"]: row["times"] for row in counts.to_pylist()}
