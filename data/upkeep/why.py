"""One pair's whole story: where it came from, every attempt to fetch it, its scores, its verdict in each version."""

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
    """What one version of a dataset made of the pair."""

    dataset: str
    version: int
    kept: bool
    reasons: list[str]


@dataclass
class Story:
    """`like` are the pairs that were told apart from it by a criterion on duplicates, or it from them."""

    pair: Row
    fetches: list[Row] = field(default_factory=list)
    image: Row | None = None
    scores: dict[str, Row] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    like: list[Row] = field(default_factory=list)


def why(lake: Lake, key: str) -> list[Story]:
    """The stories of a pair's id, or of all pairs of a URL."""
    pairs = lake.table("pairs")
    sql = f"SELECT * FROM pairs WHERE {'id' if _is_id(key) else 'url'} = {quote_text(key)} ORDER BY first_seen, id"
    found = query(sql, pairs=pairs.dataset(_bucket(lake, key) if _is_id(key) else None)).to_pylist()
    if not found:
        raise PairNotFound(f"{lake.url} knows no pair {key!r}. Give a URL as its source has it, or an id of 32 digits")
    return [_story(lake, pair) for pair in found]


def _story(lake: Lake, pair: Row) -> Story:
    id, tables = pair["id"], lake.table_names()
    bucket, story = _bucket(lake, id), Story(pair)
    story.fetches = sorted(_rows(lake, "fetches", id, bucket), key=lambda row: row["attempt"])
    images = _rows(lake, "images", id, bucket, but="image")
    story.image = images[0] if images else None
    for name in tables:
        if name.startswith("scores/"):
            for row in _rows(lake, name, id, bucket):
                said = {column: value for column, value in row.items() if not isinstance(value, bytes)}
                story.scores[name.removeprefix("scores/")] = {k: v for k, v in said.items() if k != "id"}
    for name in tables:
        if name.startswith("datasets/"):
            story.verdicts += _verdicts(lake, name.removeprefix("datasets/"), id, bucket)
    story.like = _like(lake, story, [name for name in tables if name.startswith("verdicts/")])
    return story


def _verdicts(lake: Lake, dataset: str, id: str, bucket: int) -> list[Verdict]:
    told = []
    for version in reversed(versions(lake, dataset)):
        table = lake.table(f"verdicts/{dataset}", version.record["inputs"].get(f"verdicts/{dataset}"))
        for row in _of(table, id, bucket):
            told.append(Verdict(dataset, version.version, row["kept"], row["reasons"]))
    return told


def _like(lake: Lake, story: Story, tables: list[str]) -> list[Row]:
    """Whom a criterion on duplicates kept instead of it, and whom it dropped for it."""
    named = {reason.rpartition(" ")[2] for verdict in story.verdicts for reason in verdict.reasons}
    ids = {one for one in named if _is_id(one)}
    for name in tables:
        names_it = f"lambda one: ends_with(one, {quote_text(story.pair['id'])})"
        sql = f"SELECT id FROM verdicts WHERE len(list_filter(reasons, {names_it})) > 0"
        ids |= set(query(sql, verdicts=lake.table(name).dataset())["id"].to_pylist())
    return [row for id in sorted(ids) for row in _rows(lake, "pairs", id, _bucket(lake, id))]


def _rows(lake: Lake, name: str, id: str, bucket: int, but: str | None = None) -> list[Row]:
    table = lake.find(name)
    return _of(table, id, bucket, but) if table else []


def _of(table: Table, id: str, bucket: int, but: str | None = None) -> list[Row]:
    columns = f"* EXCLUDE ({but})" if but else "*"
    return query(f"SELECT {columns} FROM rows WHERE id = {quote_text(id)}", rows=table.dataset(bucket)).to_pylist()


def _is_id(key: str) -> bool:
    return len(key) == 32 and set(key) <= set("0123456789abcdef")


def _bucket(lake: Lake, id: str) -> int:
    return bucket_of(id, len(lake.buckets))
