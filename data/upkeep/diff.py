"""What changed between two versions of a dataset: rows in, rows out, and why; and how each score has shifted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from data.lake.lake import Lake
from data.lake.sql import query, quote_name
from data.lake.table import Table
from data.publish.distributions import Distributions
from data.publish.hf_features import picture_columns
from data.publish.versions import Version, version_of

QUANTILES = (0.1, 0.5, 0.9)


@dataclass
class Shift:
    """A score's quantiles in both versions, and the largest distance of the two distributions (Kolmogorov-Smirnov)."""

    score: str
    before: list[float]
    after: list[float]
    distance: float


@dataclass
class Diff:
    """`before` − `out` + `into` = `after`. `changed` are in both, with other facts or another picture."""

    before: int = 0
    after: int = 0
    into: int = 0
    out: int = 0
    changed: int = 0
    why_in: dict[str, int] = field(default_factory=dict)  # what had kept them out before
    why_out: dict[str, int] = field(default_factory=dict)
    shifts: list[Shift] = field(default_factory=list)
    into_ids: list[str] = field(default_factory=list)
    out_ids: list[str] = field(default_factory=list)


def diff(lake: Lake, dataset: str, first: int, second: int) -> Diff:
    a, b = (version_of(lake, dataset, number) for number in (first, second))
    tables = [lake.table(f"datasets/{dataset}", number) for number in (first, second)]
    found, into, out = Diff(), Counter[str](), Counter[str]()
    for bucket in lake.buckets:
        moved = _moved(tables, bucket)
        found.before += sum(row["n"] for row in moved if row["was"])
        found.after += sum(row["n"] for row in moved if row["is"])
        found.changed += sum(row["n"] for row in moved if row["was"] and row["is"] and row["changed"])
        for ids, version, into_it, reasons in ((found.into_ids, a, True, into), (found.out_ids, b, False, out)):
            moving = [id for row in moved if row["is"] is into_it and row["was"] is not into_it for id in row["ids"]]
            ids += sorted(moving)
            reasons.update(_reasons(lake, version, moving, bucket))
    found.into, found.out = len(found.into_ids), len(found.out_ids)
    found.why_in, found.why_out = dict(into.most_common()), dict(out.most_common())
    found.shifts = _shifts(tables, lake.buckets)
    return found


def _moved(tables: list[Table], bucket: int) -> list[dict[str, Any]]:
    """How many rows of a bucket are in which of both; the ids of those that are in one alone."""
    schemas = [table.file_schema() for table in tables]
    columns = [name for name in schemas[0].names if name in schemas[1].names]
    apart = {"id", *picture_columns(schemas[0])}  # what sha256 stands for
    facts = [name for name in columns if name not in apart and not name.endswith("_embedding")]
    same = " AND ".join(f'a."{fact}" IS NOT DISTINCT FROM b."{fact}"' for fact in facts)
    return query(
        f"SELECT a.id IS NOT NULL AS was, b.id IS NOT NULL AS is, NOT ({same}) AS changed, count(*) AS n, "
        "list(coalesce(a.id, b.id)) FILTER (a.id IS NULL OR b.id IS NULL) AS ids "
        "FROM a FULL JOIN b ON a.id = b.id GROUP BY ALL",
        a=tables[0].dataset(bucket),
        b=tables[1].dataset(bucket),
    ).to_pylist()


def _reasons(lake: Lake, version: Version, ids: list[str], bucket: int) -> Counter[str]:
    """Why a version does not hold some pairs, by its own verdicts."""
    name = f"verdicts/{version.dataset}"
    verdicts = lake.table(name, version.record["inputs"][name])
    said = query(
        "SELECT coalesce(reasons[1], 'not a pair yet') AS reason, count(*) AS n FROM ids "
        "LEFT JOIN verdicts USING (id) GROUP BY reason",
        ids=pa.table({"id": pa.array(ids, pa.string())}),
        verdicts=verdicts.dataset(bucket),
    ).to_pylist()
    counts = Counter[str]()
    for row in said:
        counts[_kind(row["reason"])] += row["n"]
    return counts


def _kind(reason: str) -> str:
    """A reason without the one pair that it names."""
    return reason.partition(": same as ")[0].partition(": like ")[0]


def _shifts(tables: list[Table], buckets: range) -> list[Shift]:
    """Of every score that both versions know."""
    schemas = [table.file_schema() for table in tables]
    scores = [f.name for f in schemas[1] if pa.types.is_floating(f.type) and f.name in schemas[0].names]
    asked = ", ".join(map(quote_name, scores))
    with Distributions(scores) as told:
        for part, table in zip(("before", "after"), tables, strict=True):
            for bucket in buckets:
                told.add(f"SELECT '{part}' AS part, {asked} FROM rows", scores, rows=table.dataset(bucket))
        return [
            Shift(
                score, told.quantiles(score, "before", QUANTILES), told.quantiles(score, "after", QUANTILES), distance
            )
            for score in scores
            if (distance := told.ks_distance(score, "before", "after")) is not None
        ]
