"""Computes distributions of numeric columns in groups of rows: quantiles, histograms, Kolmogorov-Smirnov distance.

DuckDB counts how often each value occurs in each group, with values rounded to five significant digits. The counts are
in a temporary file, and every statistic is computed from them. No row reaches Python, so memory depends on the number
of distinct rounded values in one column, not on the number of rows.

A group is called a part; examples are `kept`, `dropped` and `before`. A column is called a fact, as in recipes.
"""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pyarrow.compute as pc

from data.lake.sql import quote_name, quote_text

BINS = 40
CENTRAL_QUANTILES = (0.01, 0.99)
OUTLIER_SPANS = 2.0  # in spans between the central quantiles; values farther out are counted in the outermost bin
MEMORY_LIMIT = "2GB"  # beyond this limit, DuckDB spills to its file
MERGE_AFTER = 5_000_000  # rows added to the counts before duplicates of a value are merged
# Five digits are enough to distinguish scores, and they bound the number of distinct values.
ROUNDED = "CASE WHEN value = 0 THEN 0 WHEN isfinite(value) THEN round(value, 4 - floor(log10(abs(value)))::INTEGER) END"


@dataclass(frozen=True)
class Histogram:
    """Counts per bin for each part. The outermost bins also count the values beyond their outer edge."""

    edges: list[float]  # one more than there are bins
    counts: dict[str, list[int]]  # part → count of each bin
    low: float  # smallest value
    high: float  # largest value
    is_integer: bool  # all values are whole numbers; each bin then starts at one and ends before the next bin's


class Distributions:
    """Counts of the values of some facts, per part. Use it as a context manager, which deletes the temporary file.

    Example:
        >>> with Distributions(["width"]) as distributions:
        ...     distributions.add("SELECT 'kept' AS part, * FROM rows", ["width"], rows=table)
        ...     median = distributions.quantiles("width", "kept", [0.5])
    """

    def __init__(self, facts: Sequence[str]) -> None:
        self.facts = list(facts)
        self.merged_rows = 0  # rows of the counts right after the last merge
        self._folder = tempfile.TemporaryDirectory(prefix="imagen-")
        self._database = duckdb.connect(str(Path(self._folder.name) / "counts.duckdb"))
        self._database.execute(f"SET memory_limit = '{MEMORY_LIMIT}'; SET preserve_insertion_order = false")
        self._database.execute("CREATE TABLE counts (part VARCHAR, fact VARCHAR, value DOUBLE, times BIGINT)")
        self._cache: dict[str, _ValueCounts] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def add(self, sql: str, facts: Iterable[str], **tables: object) -> None:
        """Add the rows of a query to the counts. Null and non-finite values count as unknown.

        Args:
            sql: a query whose rows have `part` and the columns `facts`.
            facts: columns to count. Columns that this object was not made for are ignored.
            tables: Arrow tables and datasets, keyed by their names in the query.
        """
        columns = [fact for fact in self.facts if fact in set(facts)]
        if not columns:
            return
        self._cache = {}
        for table, rows in tables.items():
            self._database.register(table, rows)
        numbers = ", ".join(f"TRY_CAST({quote_name(fact)} AS DOUBLE) AS {quote_name(fact)}" for fact in columns)
        self._database.execute(
            f"INSERT INTO counts SELECT part, fact, {ROUNDED} AS rounded, count(*) "
            f"FROM (SELECT part, {numbers} FROM ({sql})) "
            f"UNPIVOT INCLUDE NULLS (value FOR fact IN ({', '.join(map(quote_name, columns))})) "
            "GROUP BY part, fact, rounded"
        )
        for table in tables:
            self._database.unregister(table)
        if self._count_rows() > self.merged_rows + MERGE_AFTER:
            self._merge()

    def known_count(self, fact: str, part: str) -> int:
        """Return the number of rows of a part in which the fact has a finite value."""
        return int(self._value_counts(fact).of_part(part).sum())

    def unknown_count(self, fact: str, part: str) -> int:
        """Return the number of rows of a part in which the fact is null or not finite."""
        return self._value_counts(fact).unknown.get(part, 0)

    def quantiles(self, fact: str, part: str, shares: Sequence[float]) -> list[float]:
        """Return a quantile for each share: the smallest value that at least this share of known values don't exceed.

        Returns:
            One value for each share, or an empty list if no value is known.
        """
        counts = self._value_counts(fact)
        times = counts.of_part(part)
        return _quantiles(counts.values, times, shares) if times.any() else []

    def ks_distance(self, fact: str, first: str, second: str) -> float | None:
        """Return the Kolmogorov-Smirnov distance between two parts.

        This is the largest difference between their cumulative distributions.

        Returns:
            A number from 0 (equal) to 1, or None if one of the parts has no known value.
        """
        counts = self._value_counts(fact)
        cumulative = [np.cumsum(counts.of_part(part)) for part in (first, second)]
        if any(len(sums) == 0 or sums[-1] == 0 for sums in cumulative):
            return None
        first_shares, second_shares = (sums / sums[-1] for sums in cumulative)
        return round(float(np.abs(first_shares - second_shares).max()), 6)

    def histogram(self, fact: str, parts: Sequence[str], bins: int = BINS) -> Histogram | None:
        """Return a histogram of equal bins over the range of all parts without outliers. None if no value is known."""
        counts = self._value_counts(fact)
        times = sum((counts.of_part(part) for part in parts), np.zeros(len(counts.values), np.int64))
        values, times = counts.values[times > 0], times[times > 0]
        if not len(values):
            return None
        low, high, is_integer = float(values[0]), float(values[-1]), bool((values == np.floor(values)).all())
        first, last = _range_without_outliers(values, times)
        if is_integer:
            width: float = max(1, math.ceil((last - first + 1) / bins))
            first, bins = math.floor(first), math.floor((last - math.floor(first)) / width) + 1
        else:
            width = (last - first) / bins or 1.0
        bin_of_value = np.clip(np.floor((counts.values - first) / width), 0, bins - 1).astype(np.int64)
        bin_counts = {
            part: np.bincount(bin_of_value, counts.of_part(part), bins).astype(np.int64).tolist() for part in parts
        }
        return Histogram([first + n * width for n in range(bins + 1)], bin_counts, low, high, is_integer)

    def _count_rows(self) -> int:
        return int(self._database.sql("SELECT count(*) FROM counts").fetchall()[0][0])

    def _merge(self) -> None:
        """Merge the rows of the same part, fact and value into one."""
        self._database.execute(
            "CREATE OR REPLACE TABLE counts AS SELECT part, fact, value, sum(times)::BIGINT AS times FROM counts "
            "GROUP BY part, fact, value ORDER BY fact"
        )
        self.merged_rows = self._count_rows()

    def _value_counts(self, fact: str) -> "_ValueCounts":
        if fact not in self._cache:
            rows = self._database.sql(
                f"SELECT part, value, sum(times)::BIGINT AS times FROM counts WHERE fact = {quote_text(fact)} "
                "GROUP BY part, value"
            ).to_arrow_table()
            counts = _ValueCounts(np.unique(rows["value"].drop_null().to_numpy()), {}, {})
            for part in pc.unique(rows["part"]).to_pylist():
                part_rows = rows.filter(pc.equal(rows["part"], part))
                known = part_rows.filter(pc.is_valid(part_rows["value"]))
                unknown = part_rows.filter(pc.is_null(part_rows["value"]))
                times = np.zeros(len(counts.values), np.int64)
                times[np.searchsorted(counts.values, known["value"].to_numpy())] = known["times"].to_numpy()
                counts.times[part] = times
                counts.unknown[part] = pc.sum(unknown["times"]).as_py() or 0
            self._cache[fact] = counts
        return self._cache[fact]


@dataclass(frozen=True)
class _ValueCounts:
    """The distinct values of one fact in ascending order, with the count of each value in each part."""

    values: np.ndarray
    times: dict[str, np.ndarray]  # part → count of each value
    unknown: dict[str, int]  # part → rows without a finite value

    def of_part(self, part: str) -> np.ndarray:
        """Return the count of each value in a part."""
        return self.times.get(part, np.zeros(len(self.values), np.int64))


def _range_without_outliers(values: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """Return the range of the values, limited on each side to OUTLIER_SPANS."""
    left, right = _quantiles(values, times, CENTRAL_QUANTILES)
    low, high = float(values[0]), float(values[-1])
    reach = OUTLIER_SPANS * (right - left) or high - low
    return max(low, left - reach), min(high, right + reach)


def _quantiles(values: np.ndarray, times: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Return quantiles of ascending values, given the count of each value. At least one count must be above 0."""
    cumulative = np.cumsum(times)
    ranks = [max(1, math.ceil(share * int(cumulative[-1]))) for share in shares]
    return [float(value) for value in values[np.searchsorted(cumulative, ranks)]]
