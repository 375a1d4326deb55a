"""Applies a dataset's criteria to all pairs, and keeps the table `verdicts/<dataset>` up to date.

A verdict says whether the dataset keeps a pair, with all reasons to drop it. No pictures of the lake are read, only
their facts: scores and other columns. Row criteria judge each row independently of each other. Set criteria (`Top`,
`Unique`, `Holdout` and `Balance`) judge only the rows that passed all criteria before them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data.lake.lake import Lake
from data.lake.schemas import VERDICTS
from data.lake.shard_file import write_file
from data.lake.sql import quote_name, quote_text
from data.lake.table import Table
from data.pictures.clusters import near_vector_pairs
from data.pictures.near_duplicates import PairFinder, find_leaders, near_hash_pairs, near_known, near_thumbnail_pairs
from data.scorers.scorer import unpack_vectors
from data.select.criteria import (
    Balance,
    Holdout,
    RowCriterion,
    SetCriterion,
    Top,
    Unique,
    draw_sql,
    number_sql,
)
from data.select.facts import FETCH_REASON, NORMALIZED_CAPTION, read_whole_lake
from data.select.holdout import list_set_files, read_holdout
from data.select.selection import Cuts, Selection


class Judgement(AbstractContextManager["Judgement"]):
    """Computes the verdicts for all pairs.

    Row criteria are applied in one pass over the pairs' facts, bucket by bucket. Then each set criterion is applied to
    all pairs that are left. Meanwhile DuckDB keeps the id, the reasons and the facts for set criteria of each pair.

    Args:
        buckets: the lake's buckets.
        selection: the criteria.
        inputs: the tables of `Selection.inputs`.
        pinned: the cuts of the previous verdicts, which still apply; empty to compute all cuts anew.

    Attributes:
        cuts: the cuts that were used, both pinned and new. A cut is the last value and id that a `Top` criterion keeps.

    Example:
        with Judgement(lake.buckets, selection, selection.inputs(lake), {}) as judgement:
            rows = judgement.verdicts(0)
    """

    def __init__(self, buckets: range, selection: Selection, inputs: Mapping[str, Table], pinned: Cuts) -> None:
        self.selection = selection
        self.pinned, self.cuts = pinned, Cuts()
        self.sql = duckdb.connect()
        self.sql.execute("SET preserve_insertion_order = false")
        self._judge_rows(buckets, inputs)
        for name in inputs:
            self.sql.unregister(name)  # a score's name, which a user chose, must not hide a table that is made below
        self.sql.execute("CREATE TABLE set_drops (id VARCHAR, position INTEGER, reason VARCHAR)")
        for position, criterion in enumerate(selection.criteria, start=1):
            if isinstance(criterion, SetCriterion):
                self._judge_set(position, criterion)

    def __exit__(self, *_: object) -> None:
        self.sql.close()

    def verdicts(self, bucket: int) -> pa.Table:
        """Return one bucket's rows of `verdicts/<dataset>`, sorted by id. Reasons are in the order of the criteria."""
        rows = self.sql.sql(
            f"WITH row_drops AS (SELECT id, drops FROM judged WHERE bucket = {bucket}), "
            "more AS (SELECT id, list(struct_pack(position := position, reason := reason)) AS drops "
            "FROM set_drops GROUP BY id), "
            "reasoned AS (SELECT id, list_transform(list_sort(list_concat(row_drops.drops, coalesce(more.drops, []))), "
            "lambda dropped: dropped.reason) AS reasons FROM row_drops LEFT JOIN more USING (id)) "
            "SELECT id, len(reasons) = 0 AS kept, reasons FROM reasoned ORDER BY id"
        )
        return rows.to_arrow_table().cast(VERDICTS)

    def _judge_rows(self, buckets: range, inputs: Mapping[str, Table]) -> None:
        """Make the table `judged`: each pair with the reasons from row criteria and the facts that set criteria use."""
        criteria = list(enumerate(self.selection.criteria, start=1))
        reasons = [(0, FETCH_REASON)]
        for position, criterion in criteria:
            if isinstance(criterion, RowCriterion):
                # A pair without a picture, or one that was replaced, is dropped for that reason alone.
                reasons.append((position, f"CASE WHEN ({FETCH_REASON}) IS NULL THEN {criterion.reason_sql()} END"))
        drops = ", ".join(f"struct_pack(position := {position}, reason := {reason})" for position, reason in reasons)
        all_facts, set_facts = set[str](), set[str]()
        for _, criterion in criteria:
            all_facts.update(criterion.required_facts())
            if isinstance(criterion, SetCriterion):
                set_facts.update(criterion.required_facts())
        columns = "".join(f", {quote_name(fact)}" for fact in sorted(set_facts - {"sha256"}))
        facts = self.selection.facts_sql(all_facts)
        for name, whole_table in read_whole_lake(inputs, all_facts).items():
            self.sql.register(name, whole_table)
        for bucket in buckets:
            for name, table in inputs.items():
                self.sql.register(name, table.dataset(bucket))
            rows = (
                f"SELECT {bucket} AS bucket, id, first_seen, sha256{columns}, "
                f"list_filter([{drops}], lambda dropped: dropped.reason IS NOT NULL) AS drops FROM ({facts})"
            )
            target = "CREATE TABLE judged AS" if bucket == 0 else "INSERT INTO judged"
            self.sql.execute(f"{target} {rows}")

    def _judge_set(self, position: int, criterion: SetCriterion) -> None:
        self.sql.execute(
            "CREATE OR REPLACE TEMP VIEW passed AS SELECT * FROM judged WHERE "
            f"len(list_filter(drops, lambda dropped: dropped.position < {position})) = 0 "
            "AND id NOT IN (SELECT id FROM set_drops)"
        )
        apply: dict[type[SetCriterion], Callable[[int, Any], None]] = {
            Top: self._apply_top,
            Unique: self._apply_unique,
            Holdout: self._apply_holdout,
            Balance: self._apply_balance,
        }
        apply[type(criterion)](position, criterion)

    def _drop(self, position: int, reason: str, rows: str) -> None:
        """Drop some of the rows that passed so far.

        Args:
            position: the criterion's position.
            reason: SQL expression for the reason.
            rows: the rest of the query `SELECT id, position, reason`, beginning with `FROM`.
        """
        self.sql.execute(f"INSERT INTO set_drops SELECT id, {position}, {reason} {rows}")

    def _drop_unknown(self, position: int, reason: str, value: str) -> None:
        """Drop the rows that a criterion cannot judge because the given value is NULL."""
        self._drop(position, quote_text(reason), f"FROM passed WHERE {value} IS NULL")

    def _apply_top(self, position: int, criterion: Top) -> None:
        fact, label = number_sql(criterion.fact), criterion.label
        per = f"coalesce({quote_name(criterion.per)}, '')" if criterion.per else "''"
        self._drop_unknown(position, f"{label} unknown", fact)
        key = self.selection.fingerprint_until(position)
        cuts = dict(self.pinned.get(key, {}))
        ranked = f"SELECT {per} AS part, {fact} AS value, id FROM passed WHERE {fact} IS NOT NULL"
        sizes = self.sql.sql(f"SELECT part, count(*) FROM ({ranked}) GROUP BY part ORDER BY part").fetchall()
        for part, size in sizes:
            if part not in cuts:
                last = self.sql.sql(
                    f"SELECT value::DOUBLE, id FROM ({ranked}) WHERE part = {quote_text(part)} "
                    f"ORDER BY value DESC, id LIMIT 1 OFFSET {criterion.kept_count(size) - 1}"
                ).fetchall()
                cuts[part] = list(last[0])
        self.cuts[key] = cuts
        self.sql.execute("CREATE OR REPLACE TEMP TABLE cuts (part VARCHAR, last DOUBLE, last_id VARCHAR)")
        if cuts:
            self.sql.executemany("INSERT INTO cuts VALUES (?, ?, ?)", [[part, *cut] for part, cut in cuts.items()])
        self._drop(
            position,
            f"{quote_text(f'{label} missed: < ')} || printf('%.4g', last)",
            f"FROM ({ranked}) JOIN cuts USING (part) "
            "WHERE value::DOUBLE < last OR (value::DOUBLE = last AND id > last_id)",
        )

    def _apply_unique(self, position: int, criterion: Unique) -> None:
        label, column = criterion.label, quote_name(criterion.column)
        self._drop_unknown(position, f"{label} unknown", column)
        if criterion.by == "content" or (criterion.by == "hash" and not criterion.max_distance):
            equal = f"{column}, caption" if criterion.same_caption else column
            self._drop(
                position,
                f"{quote_text(label + ': same as ')} || first",
                "FROM (SELECT id, "
                f"first_value(id) OVER (PARTITION BY {equal} ORDER BY first_seen, id) AS first FROM passed "
                f"WHERE {column} IS NOT NULL) WHERE id <> first",
            )
            return
        rows = self.sql.sql(
            f"SELECT id, {column} AS value FROM passed WHERE {column} IS NOT NULL ORDER BY first_seen, id"
        ).to_arrow_table()
        if not rows.num_rows:
            return
        leaders = find_leaders(*_comparison(criterion, rows["value"].to_pylist()))
        later = np.flatnonzero(leaders >= 0)
        duplicates = pa.table({"id": rows["id"].take(later), "first": rows["id"].take(leaders[later])})
        self.sql.register("duplicates", duplicates)
        self._drop(position, f"{quote_text(label + ': like ')} || first", "FROM duplicates")

    def _apply_holdout(self, position: int, criterion: Holdout) -> None:
        holdout = read_holdout(tuple(list_set_files(criterion.sets)))
        label, column = criterion.label, quote_name(criterion.column)
        pictures = holdout.thumbnails if criterion.by == "look" else holdout.hashes
        if criterion.captions:
            self.sql.register("holdout", pa.table({"caption": pa.array(holdout.captions, pa.string())}))
            self._drop(
                position,
                quote_text(label + ": its caption"),
                f"FROM passed WHERE {NORMALIZED_CAPTION} IN (SELECT {NORMALIZED_CAPTION} FROM holdout)",
            )
        if not len(pictures):
            return
        self._drop_unknown(position, label + ": look unknown", column)
        rows = self.sql.sql(f"SELECT id, {column} AS value FROM passed WHERE {column} IS NOT NULL").to_arrow_table()
        if rows.num_rows:
            values, find_pairs = _comparison(criterion, rows["value"].to_pylist())
            matches = np.flatnonzero(near_known(values, pictures, find_pairs))
            self.sql.register("duplicates", pa.table({"id": rows["id"].take(matches)}))
            self._drop(position, quote_text(label + ": its picture"), "FROM duplicates")

    def _apply_balance(self, position: int, criterion: Balance) -> None:
        concepts, number = quote_name(criterion.fact), draw_sql(f"balance {criterion.seed}", salt="concept")
        self._drop(
            position,
            quote_text(criterion.label + ": not drawn"),
            "FROM passed WHERE id NOT IN ("
            f"WITH each AS (SELECT id, unnest({concepts}) AS concept FROM passed), "
            "counts AS (SELECT concept, count(*) AS times FROM each GROUP BY concept) "
            f"SELECT id FROM each JOIN counts USING (concept) WHERE {number} < {criterion.most}.0 / times)",
        )


def _comparison(criterion: Unique | Holdout, values: list[Any]) -> tuple[np.ndarray, PairFinder]:
    """Return a column's values as an array, and the function that finds all pairs of similar values in it."""
    if criterion.by == "hash":
        hashes = np.array([int(value, 16) for value in values], np.uint64)
        return hashes, partial(near_hash_pairs, distance=int(criterion.max_distance))
    if criterion.by == "look":
        thumbnails = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
        return thumbnails, partial(near_thumbnail_pairs, distance=criterion.max_distance)
    return unpack_vectors(values), partial(near_vector_pairs, distance=criterion.max_distance)


def select(lake: Lake, selection: Selection, repin: bool = False) -> bool:
    """Bring the verdicts of a dataset up to date, in one atomic commit. Buckets without a changed row keep their files.

    Args:
        lake: the lake.
        selection: the dataset's criteria.
        repin: compute the cuts of `Top` criteria anew.

    Returns:
        False if the verdicts were up to date already: same criteria, and same versions of all tables that were read.
    """
    while True:  # until no other writer was faster
        verdicts = lake.table_or_make(selection.table, VERDICTS)
        inputs = selection.inputs(lake)
        before = verdicts.last_record()
        versions = {table.name: table.version for table in inputs.values()}
        state = {"selection": selection.fingerprint, "inputs": versions}
        if not repin and {name: before.get(name) for name in state} == state:
            return False
        add, remove = [], []
        with Judgement(lake.buckets, selection, inputs, {} if repin else before.get("cuts", {})) as judgement:
            for bucket in lake.buckets:
                rows = judgement.verdicts(bucket)
                if not rows.equals(verdicts.dataset(bucket).to_table().sort_by("id").cast(VERDICTS)):
                    files = verdicts.files().items()
                    remove += [path for path, (file_bucket, _) in files if file_bucket == bucket]
                    add += [write_file(verdicts.url, bucket, rows)] if rows.num_rows else []
        if verdicts.replace(add, remove, {**state, "cuts": judgement.cuts}):
            return True
