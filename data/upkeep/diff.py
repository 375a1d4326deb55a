"""Compares two versions of a dataset: rows added and removed with the reasons, and changed distributions of scores."""

from collections import Counter
from collections.abc import Iterable
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
    """The difference in the distribution of one score between the two versions."""

    score: str
    before: list[float]  # QUANTILES in the first version
    after: list[float]  # QUANTILES in the second version
    distance: float  # Kolmogorov-Smirnov distance, 0 to 1


@dataclass
class Diff:
    """The difference between a first and a second version. Always `before` − `out` + `into` = `after`."""

    before: int = 0  # rows of the first version
    after: int = 0  # rows of the second version
    into: int = 0  # rows that only the second has
    out: int = 0  # rows that only the first has
    changed: int = 0  # rows of both with another score or another picture
    why_in: dict[str, int] = field(default_factory=dict)  # reason why the first version lacks rows → number of rows
    why_out: dict[str, int] = field(default_factory=dict)  # reason why the second version lacks rows → number of rows
    shifts: list[Shift] = field(default_factory=list)
    into_ids: list[str] = field(default_factory=list)
    out_ids: list[str] = field(default_factory=list)


def diff(lake: Lake, dataset: str, first: int, second: int) -> Diff:
    """Compare two versions of a dataset.

    Raises:
        DatasetNotFound: the lake has no such dataset.
        DatasetVersionNotFound: one of the versions does not exist.
    """
    first_version, second_version = version_of(lake, dataset, first), version_of(lake, dataset, second)
    tables = [lake.table(f"datasets/{dataset}", number) for number in (first, second)]
    result, why_in, why_out = Diff(), Counter[str](), Counter[str]()
    for bucket in lake.buckets:
        groups = _compare_bucket(tables, bucket)
        result.before += sum(group["n"] for group in groups if group["was"])
        result.after += sum(group["n"] for group in groups if group["is"])
        result.changed += sum(group["n"] for group in groups if group["was"] and group["is"] and group["changed"])
        into = _ids_of(group for group in groups if group["is"] and not group["was"])
        out = _ids_of(group for group in groups if group["was"] and not group["is"])
        result.into_ids += sorted(into)
        result.out_ids += sorted(out)
        why_in.update(_count_reasons(lake, first_version, into, bucket))
        why_out.update(_count_reasons(lake, second_version, out, bucket))
    result.into, result.out = len(result.into_ids), len(result.out_ids)
    result.why_in, result.why_out = dict(why_in.most_common()), dict(why_out.most_common())
    result.shifts = _compare_scores(tables, lake.buckets)
    return result


def _compare_bucket(tables: list[Table], bucket: int) -> list[dict[str, Any]]:
    """Group the rows of a bucket by three flags: in the first version, in the second version, changed.

    Each group has its number of rows, and the ids of the rows that only one version has.
    """
    schemas = [table.file_schema() for table in tables]
    columns = [name for name in schemas[0].names if name in schemas[1].names]
    ignored = {"id", *picture_columns(schemas[0])}  # if a picture differs, its sha256 differs too
    facts = [name for name in columns if name not in ignored and not name.endswith("_embedding")]
    same = " AND ".join(f'a."{fact}" IS NOT DISTINCT FROM b."{fact}"' for fact in facts)
    return query(
        f"SELECT a.id IS NOT NULL AS was, b.id IS NOT NULL AS is, NOT ({same}) AS changed, count(*) AS n, "
        "list(coalesce(a.id, b.id)) FILTER (a.id IS NULL OR b.id IS NULL) AS ids "
        "FROM a FULL JOIN b ON a.id = b.id GROUP BY ALL",
        a=tables[0].dataset(bucket),
        b=tables[1].dataset(bucket),
    ).to_pylist()


def _ids_of(groups: Iterable[dict[str, Any]]) -> list[str]:
    return [id for group in groups for id in group["ids"]]


def _count_reasons(lake: Lake, version: Version, ids: list[str], bucket: int) -> Counter[str]:
    """Count the reasons why a version lacks some pairs of a bucket, according to the verdicts that it was made from."""
    name = f"verdicts/{version.dataset}"
    verdicts = lake.table(name, version.record["inputs"][name])
    rows = query(
        "SELECT coalesce(reasons[1], 'not a pair yet') AS reason, count(*) AS n FROM ids "
        "LEFT JOIN verdicts USING (id) GROUP BY reason",
        ids=pa.table({"id": pa.array(ids, pa.string())}),
        verdicts=verdicts.dataset(bucket),
    ).to_pylist()
    counts = Counter[str]()
    for row in rows:
        counts[_without_pair(row["reason"])] += row["n"]
    return counts


def _without_pair(reason: str) -> str:
    """Remove from a reason the id of the pair of which this one is a duplicate."""
    return reason.partition(": same as ")[0].partition(": like ")[0]


def _compare_scores(tables: list[Table], buckets: range) -> list[Shift]:
    """Compute the shift of every score for which both versions have values."""
    schemas = [table.file_schema() for table in tables]
    scores = [f.name for f in schemas[1] if pa.types.is_floating(f.type) and f.name in schemas[0].names]
    columns = ", ".join(map(quote_name, scores))
    shifts = []
    with Distributions(scores) as distributions:
        for part, table in zip(("before", "after"), tables, strict=True):
            for bucket in buckets:
                sql = f"SELECT '{part}' AS part, {columns} FROM rows"
                distributions.add(sql, scores, rows=table.dataset(bucket))
        for score in scores:
            distance = distributions.ks_distance(score, "before", "after")
            if distance is not None:
                before = distributions.quantiles(score, "before", QUANTILES)
                after = distributions.quantiles(score, "after", QUANTILES)
                shifts.append(Shift(score, before, after, distance))
    return shifts
