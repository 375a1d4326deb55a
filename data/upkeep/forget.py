"""Take pairs out of a lake for good: out of every table, out of the files of old versions too, and never back in.

What must not come again goes on the blocklist first, as hashes. Then each table gets a commit without the rows, and
every older file that held one is written again under its name without it, so that old versions stay readable, less
what was forgotten. `pairs` comes last: a forgetting that was killed finds the same pairs when it is run again.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import PairNotFound
from data.fetch.address import matching_domain
from data.fetch.blocklist import Entry, Kind, add, url_digest
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import (
    CARD,
    DELTA_LOG,
    FORGET_NOTES,
    GRIDS_FOLDER,
    GRIDS_PAGE,
    MODELS_TABLE,
    REPORT,
    TRAINING_FOLDER,
    TRAINING_RECORD,
)
from data.lake.schemas import bucket_of, text_id
from data.lake.shard_file import ShardFile, digest, encode, write_file
from data.lake.sql import query, quote_text
from data.lake.table import Table
from data.publish.versions import versions

BESIDE = ("files", "blocklist", MODELS_TABLE)  # tables that know nothing of pairs


@dataclass
class Forgotten:
    """What was forgotten, and who had seen it."""

    pairs: list[str]
    rows: dict[str, int] = field(default_factory=dict)  # taken out of the newest state of each table
    files: int = 0  # of older states, written again
    seen_by: list[str] = field(default_factory=list)  # dataset versions, as shapes@3
    models: list[str] = field(default_factory=list)  # that were trained on any of these, as shapes/1


def forget(lake: Lake, kind: Kind, what: str, reason: str = "asked to") -> Forgotten:
    """Forget the pair of an id, those of a URL or of a domain, or those whose picture has a SHA-256."""
    found = find(lake, kind, what)
    add(lake, [Entry(kind, what, reason)])
    forgotten = Forgotten(sorted(found), seen_by=_seen_by(lake, set(found)))
    forgotten.models = _trained_on(lake, forgotten.seen_by)
    rewritten: dict[str, str] = {}
    texts = [*(caption for _, caption in found.values()), *_written_of(lake, found)]
    for name in sorted(lake.table_names(), key=lambda name: (name == "pairs", name)):
        if name not in BESIDE:
            _forget_in(lake, name, _wanted(name, found, texts), forgotten, rewritten)
    forgotten.files = len(rewritten)
    _remove_samples(lake, forgotten.seen_by)
    note = {"at": datetime.now(UTC).isoformat(), "kind": kind, "files": rewritten}
    storage.write(storage.join(lake.url, FORGET_NOTES, f"{uuid.uuid4().hex}.json"), json.dumps(note).encode())
    return forgotten


def find(lake: Lake, kind: Kind, what: str) -> dict[str, tuple[str, str]]:
    """The pairs that are meant: id → URL and caption."""
    pairs, images = lake.table("pairs"), lake.find("images")
    where = {
        "pair": f"id = {quote_text(what.strip().lower())}",
        "url": f"url = {quote_text(what)}",
        "domain": f"contains(lower(url), {quote_text(what.strip().lower().removeprefix('*').strip('.'))})",
        "sha256": f"id IN (SELECT id FROM images WHERE sha256 = {quote_text(what.strip().lower())})",
    }[kind]
    none = pa.table({"id": pa.array([], pa.string()), "sha256": pa.array([], pa.string())})
    rows = query(
        f"SELECT id, url, caption FROM pairs WHERE {where}",
        pairs=pairs.dataset(),
        images=images.dataset() if images else none,
    ).to_pylist()
    if kind == "domain":
        wanted = {Entry("domain", what, "").value}
        rows = [row for row in rows if matching_domain(_host(row["url"]), wanted)]
    if kind == "url" and not rows:  # another spelling of it
        every = query("SELECT id, url, caption FROM pairs", pairs=pairs.dataset()).to_pylist()
        rows = [row for row in every if url_digest(row["url"]) == url_digest(what)]
    if not rows:
        raise PairNotFound(f"{lake.url} knows no pair of {kind} {what!r}. Nothing was forgotten")
    return {row["id"]: (row["url"], row["caption"]) for row in rows}


def rewritten_files(lake: Lake) -> dict[str, str]:
    """The files that forgetting wrote again, table and path, with what they hash to now."""
    url, found = storage.join(lake.url, FORGET_NOTES), dict[str, str]()
    notes = [json.loads(storage.read(storage.join(url, name))) for name in storage.files(url)]
    for note in sorted(notes, key=lambda note: note["at"]):
        found |= note["files"]
    return found


def _forget_in(lake: Lake, name: str, wanted: "Wanted", forgotten: Forgotten, rewritten: dict[str, str]) -> None:
    while True:  # until no build that was running has brought any back
        table = lake.table(name)
        live, add_files, remove, gone = table.files(), list[ShardFile](), list[str](), 0
        for path, left, count in _holding(lake, table, list(live), wanted):
            remove.append(path)
            gone += count
            if left.num_rows:
                add_files.append(write_file(table.url, live[path][0], left))
        if not remove:
            break
        record = table.last_record()
        record |= {"kept": record.get("kept", 0) - gone, "added": 0, "removed": gone, "changed": 0, "forgotten": gone}
        if table.replace(add_files, remove, record if name.startswith("datasets/") else {"forgotten": gone}):
            forgotten.rows[name] = forgotten.rows.get(name, 0) + gone
    old = [path for path in storage.files(table.url) if path.endswith(".parquet") and not path.startswith(DELTA_LOG)]
    for path, left, _ in _holding(lake, table, old, wanted):
        content = encode(left)
        storage.write(storage.join(table.url, path), content)
        rewritten[f"{name}/{path}"] = digest(content)
    if name.startswith("datasets/") and forgotten.rows.get(name):
        for page in (REPORT, CARD):  # they show samples, and the next build writes them again
            storage.remove(storage.join(table.url, page))


def _written_of(lake: Lake, found: Iterable[str]) -> list[str]:
    """What captioners wrote of the pictures of some pairs. Embeddings, which are known by it, go before its tables."""
    tables = [lake.table(name) for name in lake.table_names() if name.startswith("scores/")]
    writing = [table for table in tables if "text" in table.schema().names]
    texts = {text for table in writing for text in table.find_rows(found, ["id", "text"])["text"].to_pylist()}
    return sorted(texts - {None})


def _wanted(name: str, found: dict[str, tuple[str, str]], texts: list[str]) -> "Wanted":
    if name == "rejects":
        return Wanted(urls=[url for url, _ in found.values()])
    return Wanted(ids=[*found, *(map(text_id, texts) if name.startswith("embeddings/") else [])])


@dataclass
class Wanted:
    """Which rows of a table are meant: those with an id, or those whose content has a URL in it."""

    ids: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def mask(self, rows: pa.Table) -> Any:
        if self.ids:
            return pc.is_in(rows["id"], pa.array(self.ids))
        content = pc.fill_null(rows["content"], "")
        masks = [pc.match_substring(content, url) for url in self.urls]
        mask = masks[0]
        for more in masks[1:]:
            mask = pc.or_(mask, more)
        return mask


def _holding(lake: Lake, table: Table, paths: list[str], wanted: Wanted) -> Iterator[tuple[str, pa.Table, int]]:
    """Of some files those that hold what is meant: path, the rows that are left, and how many are not."""
    buckets = {f"bucket={bucket_of(id, lake.config.buckets)}" for id in wanted.ids}
    for path in paths:
        if buckets and path.partition("/")[0] not in buckets:
            continue
        content = pa.BufferReader(storage.read(storage.join(table.url, path)))
        columns = ["id"] if wanted.ids else ["content"]
        mask = wanted.mask(pq.read_table(content, columns=columns))
        count = pc.sum(mask).as_py() or 0
        if count:
            content.seek(0)
            rows = pq.read_table(content)
            yield path, rows.filter(pc.invert(mask)), count


def _seen_by(lake: Lake, ids: set[str]) -> list[str]:
    """The dataset versions that hold any of some pairs."""
    seen = []
    for name in lake.table_names():
        if not name.startswith("datasets/"):
            continue
        dataset, holding = name.removeprefix("datasets/"), dict[str, bool]()
        for version in reversed(versions(lake, dataset)):
            table = lake.table(name, version.version)
            for path in table.files():
                if path not in holding:
                    found = table.dataset(paths=[path]).to_table(columns=["id"])["id"]
                    holding[path] = not ids.isdisjoint(found.to_pylist())
            if any(holding[path] for path in table.files()):
                seen.append(f"{dataset}@{version.version}")
    return seen


def _trained_on(lake: Lake, versions: list[str]) -> list[str]:
    """The models that were trained on any of some dataset versions."""
    table = lake.find(MODELS_TABLE)
    rows = table.dataset().to_table(columns=["name", "number", "dataset", "version"]).to_pylist() if table else []
    return sorted(f"{one['name']}/{one['number']}" for one in rows if f"{one['dataset']}@{one['version']}" in versions)


def _remove_samples(lake: Lake, versions: list[str]) -> None:
    """Trainings draw grids that show samples of the versions they are on, and a model's page shows its grids."""
    for name in storage.folders(storage.join(lake.url, TRAINING_FOLDER)):
        folder = storage.join(lake.url, TRAINING_FOLDER, name)
        about = storage.join(folder, TRAINING_RECORD)
        if storage.exists(about) and json.loads(storage.read(about))["dataset"] in versions:
            storage.remove(storage.join(folder, GRIDS_PAGE))
            for stage in storage.folders(folder):
                storage.remove(storage.join(folder, stage, GRIDS_FOLDER))


def _host(url: str) -> str:
    from yarl import URL

    try:
        return URL(url.strip()).raw_host or ""
    except ValueError:
        return ""
