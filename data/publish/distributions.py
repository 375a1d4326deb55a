"""How numbers are distributed over the parts of a whole: quantiles, histograms, and how far two parts lie apart.

Each value, to five significant digits, is counted once a part and fact, by DuckDB in a file that goes with the object;
everything else is said from the counts of one fact. So no row reaches Python, and memory is bounded by how many values
of five digits a fact has, however many rows there are.
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

from data.lake.sql import name, text

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
        self._read: dict[str, _Counted] = {}
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
        self._read = {}
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
        return int(self._counted(fact).of(part).sum())

    def unknown(self, fact: str, part: str) -> int:
        return self._counted(fact).unknown.get(part, 0)

    def quantiles(self, fact: str, part: str, shares: Sequence[float]) -> list[float]:
        """The smallest values that so large shares of the known ones reach; empty if none is known."""
        counted = self._counted(fact)
        times = counted.of(part)
        return _reached(counted.values, times, shares) if times.any() else []

    def apart(self, fact: str, one: str, other: str) -> float | None:
        """The Kolmogorov-Smirnov distance of two parts: how far their shares below a value differ at most, 0 to 1."""
        upto = [np.cumsum(self._counted(fact).of(part)) for part in (one, other)]
        if not all(len(each) and each[-1] for each in upto):
            return None
        return round(float(np.abs(upto[0] / upto[0][-1] - upto[1] / upto[1][-1]).max()), 6)

    def histogram(self, fact: str, parts: Sequence[str], bins: int = BINS) -> Histogram | None:
        """Bins of one width over the bulk of the values; none if no value is known."""
        counted = self._counted(fact)
        times = sum((counted.of(part) for part in parts), np.zeros(len(counted.values), np.int64))
        values, times = counted.values[times > 0], times[times > 0]
        if not len(values):
            return None
        low, high, whole = float(values[0]), float(values[-1]), bool((values == np.floor(values)).all())
        first, last = _bulk(values, times)
        if whole:
            width: float = max(1, math.ceil((last - first + 1) / bins))
            first, bins = math.floor(first), math.floor((last - math.floor(first)) / width) + 1
        else:
            width = (last - first) / bins or 1.0
        places = np.clip(np.floor((counted.values - first) / width), 0, bins - 1).astype(np.int64)
        counts = {part: np.bincount(places, counted.of(part), bins).astype(np.int64).tolist() for part in parts}
        return Histogram([first + n * width for n in range(bins + 1)], counts, low, high, whole)

    def _merge(self) -> None:
        self.sql.execute(
            "CREATE OR REPLACE TABLE counts AS SELECT part, fact, value, sum(times)::BIGINT AS times FROM counts "
            "GROUP BY part, fact, value ORDER BY fact"
        )
        self.merged = self.sql.sql("SELECT count(*) FROM counts").fetchall()[0][0]

    def _counted(self, fact: str) -> "_Counted":
        if fact not in self._read:
            rows = self.sql.sql(
                f"SELECT part, value, sum(times)::BIGINT AS times FROM counts WHERE fact = {text(fact)} "
                "GROUP BY part, value"
            ).to_arrow_table()
            counted = _Counted(np.unique(rows["value"].drop_null().to_numpy()), {}, {})
            for part in pc.unique(rows["part"]).to_pylist():
                own = rows.filter(pc.equal(rows["part"], part))
                known, unknown = own.filter(pc.is_valid(own["value"])), own.filter(pc.is_null(own["value"]))
                counted.times[part] = np.zeros(len(counted.values), np.int64)
                counted.times[part][np.searchsorted(counted.values, known["value"].to_numpy())] = known[
                    "times"
                ].to_numpy()
                counted.unknown[part] = pc.sum(unknown["times"]).as_py() or 0
            self._read[fact] = counted
        return self._read[fact]


@dataclass(frozen=True)
class _Counted:
    """The values of a fact, in order, and how often each part has them."""

    values: np.ndarray
    times: dict[str, np.ndarray]
    unknown: dict[str, int]

    def of(self, part: str) -> np.ndarray:
        return self.times.get(part, np.zeros(len(self.values), np.int64))


def _bulk(values: np.ndarray, times: np.ndarray) -> tuple[float, float]:
    """The range to draw: all of it, unless a few values lie far out."""
    left, right = _reached(values, times, MIDDLE)
    low, high = float(values[0]), float(values[-1])
    reach = FAR * (right - left) or high - low
    return max(low, left - reach), min(high, right + reach)


def _reached(values: np.ndarray, times: np.ndarray, shares: Sequence[float]) -> list[float]:
    """The smallest values up to which so large shares lie."""
    upto = np.cumsum(times)
    wanted = [max(1, math.ceil(share * int(upto[-1]))) for share in shares]
    return [float(value) for value in values[np.searchsorted(upto, wanted)]]
