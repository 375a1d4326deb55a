"""Finds a pair's history: its source, every attempt to fetch it, its scores, its verdict in each dataset version."""

from dataclasses import dataclass, field
from typing import Any

from data.errors import PairNotFound
from data.lake.lake import Lake
from data.lake.schemas import bucket_of
from data.lake.sql import query, quote_text
from data.lake.table import Table
from data.publish.versions import versions

Row = dict[str, Any]


@dataclass
class Verdict:
    """The verdict on the pair in one version of a dataset."""

    dataset: str
    version: int
    kept: bool
    reasons: list[str]  # reasons why the pair was dropped


@dataclass
class PairHistory:
    """Everything that a lake knows about a pair."""

    pair: Row  # the pair's row in `pairs`
    fetches: list[Row] = field(default_factory=list)  # every attempt, in order
    image: Row | None = None  # the pair's row in `images`, without the picture
    scores: dict[str, Row] = field(default_factory=dict)  # table of a scorer → the pair's scores in it
    verdicts: list[Verdict] = field(default_factory=list)
    like: list[Row] = field(default_factory=list)  # pairs of which it is a duplicate, or that are duplicates of it


def why(lake: Lake, key: str) -> list[PairHistory]:
    """Return the history of the pair with an id, or of all pairs with a URL.

    Raises:
        PairNotFound: there is no such pair.
    """
    pairs = lake.table("pairs")
    column, bucket = ("id", _bucket(lake, key)) if _is_id(key) else ("url", None)
    sql = f"SELECT * FROM pairs WHERE {column} = {quote_text(key)} ORDER BY first_seen, id"
    rows = query(sql, pairs=pairs.dataset(bucket)).to_pylist()
    if not rows:
        raise PairNotFound(
            f"{lake.url} has no pair {key!r}. Give a URL exactly as its source has it, or an id of 32 hex digits"
        )
    return [_history_of(lake, row) for row in rows]


def _history_of(lake: Lake, pair: Row) -> PairHistory:
    id, tables = pair["id"], lake.table_names()
    bucket, history = _bucket(lake, id), PairHistory(pair)
    history.fetches = sorted(_rows(lake, "fetches", id, bucket), key=lambda row: row["attempt"])
    images = _rows(lake, "images", id, bucket, excluded="image")
    history.image = images[0] if images else None
    for name in tables:
        if name.startswith("scores/"):
            for row in _rows(lake, name, id, bucket):
                values = {column: value for column, value in row.items() if not isinstance(value, bytes)}
                del values["id"]
                history.scores[name.removeprefix("scores/")] = values
        elif name.startswith("datasets/"):
            history.verdicts += _verdicts(lake, name.removeprefix("datasets/"), id, bucket)
    history.like = _duplicates(lake, history, [name for name in tables if name.startswith("verdicts/")])
    return history


def _verdicts(lake: Lake, dataset: str, id: str, bucket: int) -> list[Verdict]:
    """Return the verdicts on a pair in all versions of a dataset, oldest first."""
    verdicts = []
    for version in reversed(versions(lake, dataset)):
        table = lake.table(f"verdicts/{dataset}", version.record["inputs"].get(f"verdicts/{dataset}"))
        for row in _rows_of(table, id, bucket):
            verdicts.append(Verdict(dataset, version.version, row["kept"], row["reasons"]))
    return verdicts


def _duplicates(lake: Lake, history: PairHistory, tables: list[str]) -> list[Row]:
    """Return the pairs that were kept instead of this pair, and the pairs that were dropped as duplicates of it."""
    last_words = {reason.rpartition(" ")[2] for verdict in history.verdicts for reason in verdict.reasons}
    ids = {word for word in last_words if _is_id(word)}
    for name in tables:
        names_pair = f"lambda reason: ends_with(reason, {quote_text(history.pair['id'])})"
        sql = f"SELECT id FROM verdicts WHERE len(list_filter(reasons, {names_pair})) > 0"
        ids |= set(query(sql, verdicts=lake.table(name).dataset())["id"].to_pylist())
    return [row for id in sorted(ids) for row in _rows(lake, "pairs", id, _bucket(lake, id))]


def _rows(lake: Lake, name: str, id: str, bucket: int, excluded: str | None = None) -> list[Row]:
    """Return the rows of a pair in a table. Empty if the table does not exist."""
    table = lake.find(name)
    return _rows_of(table, id, bucket, excluded) if table else []


def _rows_of(table: Table, id: str, bucket: int, excluded: str | None = None) -> list[Row]:
    columns = f"* EXCLUDE ({excluded})" if excluded else "*"
    return query(f"SELECT {columns} FROM rows WHERE id = {quote_text(id)}", rows=table.dataset(bucket)).to_pylist()


def _is_id(key: str) -> bool:
    return len(key) == 32 and set(key) <= set("0123456789abcdef")


def _bucket(lake: Lake, id: str) -> int:
    return bucket_of(id, len(lake.buckets))
