"""How numbers are distributed over the parts of a whole: quantiles, histograms, and how far two parts lie apart.

Each value, to five significant digits, is counted once a part and fact, by DuckDB in a file that goes with the object;
everything else is said from these counts. So no row reaches Python, and memory is bounded however many there are.
"""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb

from data.criteria import name, text

BINS = 40
FAR = 2.0  # spans of the middle 98 % beyond them: what lies farther shares the last bin
MIDDLE = (0.01, 0.99)
MEMORY = "2GB"  # beyond it DuckDB goes on beside its file
MOST_COUNTS = 5_000_000  # added before those of one value are put together
# Five digits tell scores apart (they have no more), and bound how many values there are to count.
ROUNDED = "CASE WHEN value = 0 THEN 0 WHEN isfinite(value) THEN round(value, 4 - floor(log10(abs(value)))::INTEGER) END"


@dataclass(frozen=True)
class Histogram:
    """`edges` has one more than each part has counts; the outer bins hold what lies beyond them too."""

    edges: list[float]
    counts: dict[str, list[int]]
    low: float  # the smallest and the largest value
    high: float
    whole: bool  # whole numbers alone: bin n begins at a number and ends before the next


class Distributions:
    def __init__(self, facts: Sequence[str]) -> None:
        self.facts = list(facts)
        self.folder = tempfile.TemporaryDirectory(prefix="imagen-")
        self.sql = duckdb.connect(str(Path(self.folder.name) / "counts.duckdb"))
        self.sql.execute(f"SET memory_limit = '{MEMORY}'; SET preserve_insertion_order = false")
        self.sql.execute("CREATE TABLE counts (part VARCHAR, fact VARCHAR, value DOUBLE, times BIGINT)")
        self.merged = 0  # counts that are one for each value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sql.close()
        self.folder.cleanup()

    def add(self, sql: str, facts: Iterable[str], **tables: object) -> None:
        """Count what SQL gives over Arrow tables and datasets: rows with `part` and the facts, null where unknown."""
        columns = [fact for fact in self.facts if fact in set(facts)]
        if not columns:
            return
        for table, rows in tables.items():
            self.sql.register(table, rows)
        numbers = ", ".join(f"TRY_CAST({name(fact)} AS DOUBLE) AS {name(fact)}" for fact in columns)
        self.sql.execute(
            f"INSERT INTO counts SELECT part, fact, {ROUNDED} AS rounded, count(*) "
            f"FROM (SELECT part, {numbers} FROM ({sql})) "
            f"UNPIVOT INCLUDE NULLS (value FOR fact IN ({', '.join(map(name, columns))})) GROUP BY part, fact, rounded"
        )
        for table in tables:
            self.sql.unregister(table)
        counted = self.sql.sql("SELECT count(*) FROM counts").fetchall()[0][0]
        if counted > self.merged + MOST_COUNTS:
            self._merge()

    def known(self, fact: str, part: str) -> int:
        return self._count(fact, part, "value IS NOT NULL")

    def unknown(self, fact: str, part: str) -> int:
        return self._count(fact, part, "value IS NULL")

    def quantiles(self, fact: str, part: str, shares: Sequence[float]) -> list[float]:
        """The smallest values that so large shares of the known ones reach; empty if none is known."""
        total = self.known(fact, part)
        return self._reached(f"{self._values(fact)} AND part = {text(part)}", total, shares) if total else []

    def apart(self, fact: str, one: str, other: str) -> float | None:
        """The Kolmogorov-Smirnov distance of two parts: how far their shares below a value differ at most, 0 to 1."""
        sizes = self.known(fact, one), self.known(fact, other)
        if not all(sizes):
            return None
        steps = (
            f"SELECT value, sum(CASE part WHEN {text(one)} THEN times / {sizes[0]}.0 ELSE -times / {sizes[1]}.0 END) "
            f"AS step FROM ({self._values(fact)} AND part IN ({text(one)}, {text(other)})) GROUP BY value"
        )
        found = self.sql.sql(
            f"SELECT max(abs(apart)) FROM (SELECT sum(step) OVER (ORDER BY value) AS apart FROM ({steps}))"
        )
        return round(float(found.fetchall()[0][0]), 6)

    def histogram(self, fact: str, parts: Sequence[str], bins: int = BINS) -> Histogram | None:
        """Bins of one width over the bulk of the values; none if no value is known."""
        among = f"{self._values(fact)} AND part IN ({', '.join(map(text, parts))})"
        low, high, whole, total = self.sql.sql(
            f"SELECT min(value), max(value), bool_and(value = floor(value)), sum(times) FROM ({among})"
        ).fetchall()[0]
        if not total:
            return None
        first, last = self._bulk(among, low, high, int(total))
        if whole:
            width: float = max(1, math.ceil((last - first + 1) / bins))
            first, bins = math.floor(first), math.floor((last - math.floor(first)) / width) + 1
        else:
            width = (last - first) / bins or 1.0
        counts = {part: [0] * bins for part in parts}
        found = self.sql.sql(
            f"SELECT part, greatest(0, least({bins - 1}, floor((value - {first!r}) / {width!r})))::INTEGER AS bin, "
            f"sum(times) FROM ({among}) GROUP BY ALL"
        )
        for part, bin, times in found.fetchall():
            counts[part][bin] = int(times)
        return Histogram([first + n * width for n in range(bins + 1)], counts, low, high, bool(whole))

    def _merge(self) -> None:
        self.sql.execute(
            "CREATE OR REPLACE TABLE counts AS SELECT part, fact, value, sum(times)::BIGINT AS times FROM counts "
            "GROUP BY part, fact, value ORDER BY fact"
        )
        self.merged = self.sql.sql("SELECT count(*) FROM counts").fetchall()[0][0]

    def _bulk(self, among: str, low: float, high: float, total: int) -> tuple[float, float]:
        """The range to draw: all of it, unless a few values lie far out."""
        left, right = self._reached(among, total, MIDDLE)
        reach = FAR * (right - left) or high - low
        return max(low, left - reach), min(high, right + reach)

    def _reached(self, among: str, total: int, shares: Sequence[float]) -> list[float]:
        """The smallest values up to which so large shares lie."""
        places = ", ".join(f"min(value) FILTER (upto >= {max(1, math.ceil(share * total))})" for share in shares)
        upto = f"SELECT value, sum(times) OVER (ORDER BY value) AS upto FROM ({among})"
        return list(self.sql.sql(f"SELECT {places} FROM ({upto})").fetchall()[0])

    def _values(self, fact: str) -> str:
        return f"SELECT part, value, times FROM counts WHERE fact = {text(fact)} AND value IS NOT NULL"

    def _count(self, fact: str, part: str, which: str) -> int:
        found = self.sql.sql(
            f"SELECT coalesce(sum(times), 0) FROM counts WHERE fact = {text(fact)} AND part = {text(part)} AND {which}"
        )
        return int(found.fetchall()[0][0])
