"""Which pairs are kept, and every reason why not: SQL over the facts, into `verdicts/<dataset>`. Touches no pixel.

Scores are facts, thresholds are opinions: a changed criterion (criteria.py) changes only this table. Criteria on a row
give their reason whatever the others say; those on sets (the best, one of each, so many of each) judge the rows that
passed all before them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from data.fetch.due import EVENTS, REPLACED
from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, PAIRS, VERDICTS
from data.lake.shard_file import write_file
from data.lake.sql import query, quote_name, quote_text
from data.lake.table import Table
from data.pictures.clusters import near_vector_pairs
from data.pictures.near_duplicates import PairFinder, find_leaders, near_hash_pairs, near_known, near_thumbnail_pairs
from data.scorers.scorer import Scorer, unpack_vectors
from data.select.criteria import (
    CARRIED,
    Balance,
    Criterion,
    Holdout,
    RowCriterion,
    SetCriterion,
    Top,
    Unique,
    draw,
    number,
)
from data.select.holdout import files_of, known_of

FACTS = {
    "source": "pairs.source",
    "words": "len(regexp_extract_all(pairs.caption, '\\S+'))",
    "characters": "length(trim(pairs.caption))",
    "width": "original_width",
    "height": "original_height",
    "side": "least(original_width, original_height)",
    "aspect": "greatest(original_width, original_height) / least(original_width, original_height)",
    "bytes": "original_bytes",
    "caption": "pairs.caption",
    "caption_seen": "coalesce(often.times, 1)",
    "fetch_status": "coalesce(last.status, 'ok')",
}
OFTEN = (
    "SELECT md5(caption) AS digest, count(*) AS times FROM pairs WHERE id NOT IN (SELECT id FROM replaced) "
    "GROUP BY ALL HAVING times > 1"
)
NO_OFTEN = pa.table({"digest": pa.array([], pa.string()), "times": pa.array([], pa.int64())})
NOT_FETCHED = "not fetched"  # begins the reason of every pair without a picture
FETCH_REASON = (
    "CASE WHEN replaced_by IS NOT NULL THEN 'replaced by ' || replaced_by "
    f"WHEN sha256 IS NULL THEN '{NOT_FETCHED}: ' || coalesce(status, 'pending') END"
)

SAME_WORDS = "trim(lower(regexp_replace(caption, '[^\\p{L}\\p{N}]+', ' ', 'g')))"

Cuts = dict[str, dict[str, list[Any]]]  # of each `Top`: group → the last value and id that are kept


@dataclass(frozen=True)
class Selection:
    """The criteria of a dataset, in order, over the tables of scores that they may ask."""

    dataset: str
    criteria: tuple[Criterion, ...]
    scores: Mapping[str, Scorer]  # by name in the recipe, and the vectors of some

    @property
    def table(self) -> str:
        return f"verdicts/{self.dataset}"

    @property
    def fingerprint(self) -> str:
        """Changes with any opinion or scorer, and with nothing else."""
        return self.fingerprint_until(len(self.criteria))

    def fingerprint_until(self, place: int) -> str:
        said = [[type(one).__name__, one.model_dump(mode="json"), one.state()] for one in self.criteria[:place]]
        tables = sorted((name, scorer.table) for name, scorer in self.scores.items())
        return hashlib.sha256(json.dumps([said, tables]).encode()).hexdigest()

    def tables(self) -> dict[str, str]:
        """The tables that are read, by the names that SQL has for them."""
        return {one: one for one in ("pairs", "images", "fetches")} | {n: one.table for n, one in self.scores.items()}

    def inputs(self, lake: Lake) -> dict[str, Table]:
        tables = {"pairs": lake.table_or_make("pairs", PAIRS), "images": lake.table_or_make("images", IMAGES)}
        tables["fetches"] = lake.table_or_make("fetches", FETCHES, ("id", "attempt"))
        return tables | {name: lake.table_or_make(one.table, one.schema) for name, one in self.scores.items()}

    def facts(self, asked: Iterable[str]) -> str:
        """SQL: one row a pair with some facts that a criterion may name. A table that says none of them is not read."""
        wanted = set(asked)
        said = [f"{sql} AS {fact}" for fact, sql in FACTS.items() if fact in wanted]
        said += [f"{_carried(fact)} AS {quote_name(fact)}" for fact in sorted(wanted) if fact.startswith(CARRIED)]
        joins = " LEFT JOIN often ON often.digest = md5(pairs.caption)" if "caption_seen" in wanted else ""
        for table, scorer in self.scores.items():
            columns = [column for column in scorer.columns.names if f"{table}_{column}" in wanted]
            said += [f"{table}.{column} AS {table}_{column}" for column in columns]
            joins += f" LEFT JOIN {table} ON {table}.id = pairs.id" if columns else ""
        return (
            "SELECT pairs.id, first_seen, images.sha256, last.status, replaced.replaced_by"
            f"{''.join(f', {one}' for one in said)} FROM pairs LEFT JOIN replaced ON replaced.id = pairs.id "
            "LEFT JOIN images ON images.id = pairs.id LEFT JOIN "
            "(SELECT id, arg_max(status, attempt) AS status FROM fetches GROUP BY id) last ON last.id = pairs.id"
            + joins
        )


class Judgement(AbstractContextManager["Judgement"]):
    """One pass over the facts of all pairs, bucket by bucket, and one over what is left for each criterion on sets."""

    def __init__(self, buckets: range, selection: Selection, inputs: Mapping[str, Table], pinned: Cuts) -> None:
        self.selection = selection
        self.pinned, self.cuts = pinned, Cuts()
        self.sql = duckdb.connect()
        self.sql.execute("SET preserve_insertion_order = false")
        self._judge_rows(buckets, inputs)
        self.sql.execute("CREATE TABLE fallen (id VARCHAR, place INTEGER, reason VARCHAR)")
        for place, criterion in enumerate(selection.criteria, start=1):
            if isinstance(criterion, SetCriterion):
                self._judge_set(place, criterion)

    def __exit__(self, *_: object) -> None:
        self.sql.close()

    def verdicts(self, bucket: int) -> pa.Table:
        found = self.sql.sql(
            f"WITH judged AS (SELECT id, fell FROM judged WHERE bucket = {bucket}), "
            "sets AS (SELECT id, list(struct_pack(place := place, reason := reason)) AS more FROM fallen GROUP BY id), "
            "reasoned AS (SELECT id, list_transform(list_sort(list_concat(fell, coalesce(more, []))), "
            "lambda one: one.reason) AS reasons FROM judged LEFT JOIN sets USING (id)) "
            "SELECT id, len(reasons) = 0 AS kept, reasons FROM reasoned ORDER BY id"
        )
        return found.to_arrow_table().cast(VERDICTS)

    def _judge_rows(self, buckets: range, inputs: Mapping[str, Table]) -> None:
        criteria = list(enumerate(self.selection.criteria, start=1))
        reasons = [(0, FETCH_REASON)]
        for place, criterion in criteria:
            if isinstance(
                criterion, RowCriterion
            ):  # a pair without a picture, or with an old one, falls for that alone
                reasons.append((place, f"CASE WHEN ({FETCH_REASON}) IS NULL THEN {criterion.reason()} END"))
        fell = ", ".join(f"struct_pack(place := {place}, reason := {reason})" for place, reason in reasons)
        needed = {fact for _, c in criteria if isinstance(c, SetCriterion) for fact in c.asks()} - {"sha256"}
        columns = "".join(f", {quote_name(fact)}" for fact in sorted(needed))
        asked = {fact for _, one in criteria for fact in one.asks()}
        facts = self.selection.facts(asked)
        for table, all_rows in across(inputs, asked).items():
            self.sql.register(table, all_rows)
        for bucket in buckets:
            for table, rows in inputs.items():
                self.sql.register(table, rows.dataset(bucket))
            found = (
                f"SELECT {bucket} AS bucket, id, first_seen, sha256{columns}, "
                f"list_filter([{fell}], lambda one: one.reason IS NOT NULL) AS fell FROM ({facts})"
            )
            made = "CREATE TABLE judged AS" if bucket == 0 else "INSERT INTO judged"
            self.sql.execute(f"{made} {found}")

    def _judge_set(self, place: int, criterion: SetCriterion) -> None:
        self.sql.execute(
            "CREATE OR REPLACE TEMP VIEW rest AS SELECT * FROM judged WHERE "
            f"len(list_filter(fell, lambda one: one.place < {place})) = 0 AND id NOT IN (SELECT id FROM fallen)"
        )
        if isinstance(criterion, Top):
            self._best(place, criterion)
        elif isinstance(criterion, Unique):
            self._one_of_each(place, criterion)
        elif isinstance(criterion, Holdout):
            self._none_of(place, criterion)
        elif isinstance(criterion, Balance):
            self._so_many_of_each(place, criterion)

    def _fall(self, place: int, found: str) -> None:
        """Note what a criterion drops: SQL that gives id and reason."""
        self.sql.execute(f"INSERT INTO fallen SELECT id, {place}, reason FROM ({found})")

    def _best(self, place: int, criterion: Top) -> None:
        fact, label = number(criterion.fact), criterion.label
        per = f"coalesce({quote_name(criterion.per)}, '')" if criterion.per else "''"
        self._fall(place, f"SELECT id, {quote_text(f'{label} unknown')} AS reason FROM rest WHERE {fact} IS NULL")
        key = self.selection.fingerprint_until(place)
        cuts = dict(self.pinned.get(key, {}))
        ranked = f"SELECT {per} AS part, {fact} AS value, id FROM rest WHERE {fact} IS NOT NULL"
        sizes = self.sql.sql(f"SELECT part, count(*) FROM ({ranked}) GROUP BY part ORDER BY part").fetchall()
        for part, size in sizes:
            if part not in cuts:
                last = self.sql.sql(
                    f"SELECT value::DOUBLE, id FROM ({ranked}) WHERE part = {quote_text(part)} "
                    f"ORDER BY value DESC, id LIMIT 1 OFFSET {criterion.count(size) - 1}"
                ).fetchall()
                cuts[part] = list(last[0])
        self.cuts[key] = cuts
        self.sql.execute("CREATE OR REPLACE TEMP TABLE cuts (part VARCHAR, last DOUBLE, last_id VARCHAR)")
        if cuts:
            self.sql.executemany("INSERT INTO cuts VALUES (?, ?, ?)", [[part, *cut] for part, cut in cuts.items()])
        self._fall(
            place,
            f"SELECT id, {quote_text(f'{label} missed: < ')} || printf('%.4g', last) AS reason FROM ({ranked}) "
            "JOIN cuts USING (part) WHERE value::DOUBLE < last OR (value::DOUBLE = last AND id > last_id)",
        )

    def _one_of_each(self, place: int, criterion: Unique) -> None:
        label, column = criterion.label, quote_name(criterion.column)
        self._fall(place, f"SELECT id, {quote_text(f'{label} unknown')} AS reason FROM rest WHERE {column} IS NULL")
        if criterion.by == "content" or (criterion.by == "hash" and not criterion.most):
            same = ", ".join([column, *(["caption"] if criterion.same_caption else [])])
            self._fall(
                place,
                f"SELECT id, {quote_text(label + ': same as ')} || first AS reason FROM (SELECT id, "
                f"first_value(id) OVER (PARTITION BY {same} ORDER BY first_seen, id) AS first FROM rest "
                f"WHERE {column} IS NOT NULL) WHERE id <> first",
            )
            return
        rows = self.sql.sql(
            f"SELECT id, {column} AS value FROM rest WHERE {column} IS NOT NULL ORDER BY first_seen, id"
        ).to_arrow_table()
        if not rows.num_rows:
            return
        leader = find_leaders(*_comparable(criterion, rows["value"].to_pylist()))
        later = np.flatnonzero(leader >= 0)
        found = pa.table({"id": rows["id"].take(later), "first": rows["id"].take(leader[later])})
        self.sql.register("alike", found)
        self._fall(place, f"SELECT id, {quote_text(label + ': like ')} || first AS reason FROM alike")

    def _none_of(self, place: int, criterion: Holdout) -> None:
        known = known_of(tuple(files_of(criterion.sets)))
        column, pictures = quote_name(criterion.column), known.thumbnails if criterion.by == "look" else known.hashes
        if criterion.captions:
            self.sql.register("known", pa.table({"caption": pa.array(known.captions, pa.string())}))
            same = f"SELECT id FROM rest WHERE {SAME_WORDS} IN (SELECT {SAME_WORDS} FROM known)"
            self._fall(place, f"SELECT id, {quote_text(criterion.label + ': its caption')} AS reason FROM ({same})")
        if not len(pictures):
            return
        self._fall(
            place,
            f"SELECT id, {quote_text(criterion.label + ': look unknown')} AS reason FROM rest WHERE {column} IS NULL",
        )
        rows = self.sql.sql(f"SELECT id, {column} AS value FROM rest WHERE {column} IS NOT NULL").to_arrow_table()
        if rows.num_rows:
            values, like = _comparable(criterion, rows["value"].to_pylist())
            found = np.flatnonzero(near_known(values, pictures, like))
            self.sql.register("alike", pa.table({"id": rows["id"].take(found)}))
            self._fall(place, f"SELECT id, {quote_text(criterion.label + ': its picture')} AS reason FROM alike")

    def _so_many_of_each(self, place: int, criterion: Balance) -> None:
        of, salt = quote_name(criterion.fact), draw(f"balance {criterion.seed}", salt="concept")
        self._fall(
            place,
            f"WITH each AS (SELECT id, unnest({of}) AS concept FROM rest), "
            "counted AS (SELECT concept, count(*) AS times FROM each GROUP BY concept) "
            f"SELECT id, {quote_text(criterion.label + ': not drawn')} AS reason FROM rest WHERE id NOT IN "
            f"(SELECT id FROM each JOIN counted USING (concept) WHERE {salt} < {criterion.most}.0 / times)",
        )


def across(inputs: Mapping[str, Table], facts: Iterable[str]) -> dict[str, pa.Table]:
    """What the facts of a row need to know of all rows: who was replaced, and how often its caption is there."""
    pairs = inputs["pairs"].dataset()
    replaced = query(REPLACED, events=query(EVENTS, pairs=pairs, fetches=inputs["fetches"].dataset()))
    often = query(OFTEN, pairs=pairs, replaced=replaced) if "caption_seen" in facts else NO_OFTEN
    return {"replaced": replaced, "often": often}


def _carried(fact: str) -> str:
    """SQL: a column that the source had and that was carried through, as text."""
    key = fact.removeprefix(CARRIED).replace('"', '\\"')
    return "json_extract_string(pairs.extra, " + quote_text(f'$."{key}"') + ")"


def _comparable(criterion: Unique | Holdout, values: list[Any]) -> tuple[np.ndarray, PairFinder]:
    """The values of a column as an array, and how they are compared."""
    if criterion.by == "hash":
        hashes = np.array([int(value, 16) for value in values], np.uint64)
        return hashes, partial(near_hash_pairs, distance=int(criterion.most))
    if criterion.by == "look":
        thumbnails = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
        return thumbnails, partial(near_thumbnail_pairs, distance=criterion.most)
    return unpack_vectors(values), partial(near_vector_pairs, distance=criterion.most)


def select(lake: Lake, selection: Selection, repin: bool = False) -> bool:
    """Bring the verdicts up to date. False if they already were: same criteria, same state of every table asked."""
    while True:
        verdicts = lake.table_or_make(selection.table, VERDICTS)
        inputs = selection.inputs(lake)
        before = verdicts.last_record()
        state = {"selection": selection.fingerprint, "inputs": {t.name: t.version for t in inputs.values()}}
        if not repin and {name: before.get(name) for name in state} == state:
            return False
        add, remove = [], []
        with Judgement(lake.buckets, selection, inputs, {} if repin else before.get("cuts", {})) as judgement:
            for bucket in lake.buckets:
                new = judgement.verdicts(bucket)
                if not new.equals(verdicts.dataset(bucket).to_table().sort_by("id").cast(VERDICTS)):
                    remove += [path for path, (of, _) in verdicts.files().items() if of == bucket]
                    add += [write_file(verdicts.url, bucket, new)] if new.num_rows else []
        if verdicts.replace(add, remove, {**state, "cuts": judgement.cuts}):
            return True
