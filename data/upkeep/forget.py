"""Forgets pairs: deletes them from every table and from the files of old versions, and prevents them from coming back.

First the pairs are added to the blocklist, as hashes. Then each table gets a commit without their rows. Older files
that contain such rows are rewritten in place without them. So old versions stay readable, but without the forgotten
rows. The table `pairs` is changed last. So if `forget` is interrupted, running it again finds the same pairs.
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

TABLES_WITHOUT_PAIRS = ("files", "blocklist", MODELS_TABLE)


@dataclass
class ForgetResult:
    """The rows and files that `forget` changed, and the dataset versions and models that contained forgotten pairs."""

    pairs: list[str]  # ids
    rows: dict[str, int] = field(default_factory=dict)  # table → rows deleted from its current version
    files: int = 0  # files of older versions that were rewritten
    seen_by: list[str] = field(default_factory=list)  # dataset versions, such as shapes@3
    models: list[str] = field(default_factory=list)  # models trained on one of these, such as shapes/1


def forget(lake: Lake, kind: Kind, what: str, reason: str = "asked to") -> ForgetResult:
    """Forget the pairs that match.

    Args:
        lake: the lake.
        kind: the kind of `what`: a pair's id, a URL, a domain (with its subdomains), or the SHA-256 of a picture.
        what: the value to match.
        reason: the reason to store in the blocklist.

    Raises:
        PairNotFound: no pair matches. Nothing was changed.
    """
    pairs = find_pairs(lake, kind, what)
    add(lake, [Entry(kind, what, reason)])
    result = ForgetResult(sorted(pairs), seen_by=_versions_with(lake, set(pairs)))
    result.models = _models_trained_on(lake, result.seen_by)
    rewritten: dict[str, str] = {}
    texts = [*(caption for _, caption in pairs.values()), *_written_captions(lake, pairs)]
    for name in sorted(lake.table_names(), key=lambda name: (name == "pairs", name)):
        if name not in TABLES_WITHOUT_PAIRS:
            _forget_in_table(lake, name, _matcher_for(name, pairs, texts), result, rewritten)
    result.files = len(rewritten)
    _remove_grids(lake, result.seen_by)
    note = {"at": datetime.now(UTC).isoformat(), "kind": kind, "files": rewritten}
    storage.write(storage.join(lake.url, FORGET_NOTES, f"{uuid.uuid4().hex}.json"), json.dumps(note).encode())
    return result


def find_pairs(lake: Lake, kind: Kind, what: str) -> dict[str, tuple[str, str]]:
    """Find the pairs that match, as id → URL and caption. A URL also matches other spellings of the same address.

    Raises:
        PairNotFound: no pair matches.
    """
    pairs, images = lake.table("pairs"), lake.find("images")
    condition = {
        "pair": f"id = {quote_text(what.strip().lower())}",
        "url": f"url = {quote_text(what)}",
        "domain": f"contains(lower(url), {quote_text(what.strip().lower().removeprefix('*').strip('.'))})",
        "sha256": f"id IN (SELECT id FROM images WHERE sha256 = {quote_text(what.strip().lower())})",
    }[kind]
    no_images = pa.table({"id": pa.array([], pa.string()), "sha256": pa.array([], pa.string())})
    rows = query(
        f"SELECT id, url, caption FROM pairs WHERE {condition}",
        pairs=pairs.dataset(),
        images=images.dataset() if images else no_images,
    ).to_pylist()
    if kind == "domain":
        domains = {Entry("domain", what, "").value}
        rows = [row for row in rows if matching_domain(_host(row["url"]), domains)]
    if kind == "url" and not rows:
        all_rows = query("SELECT id, url, caption FROM pairs", pairs=pairs.dataset()).to_pylist()
        rows = [row for row in all_rows if url_digest(row["url"]) == url_digest(what)]
    if not rows:
        raise PairNotFound(f"{lake.url} has no pair of {kind} {what!r}. Nothing was forgotten")
    return {row["id"]: (row["url"], row["caption"]) for row in rows}


def rewritten_files(lake: Lake) -> dict[str, str]:
    """List the files that `forget` has rewritten, as table and path → digest of the present content."""
    url, digests = storage.join(lake.url, FORGET_NOTES), dict[str, str]()
    notes = [json.loads(storage.read(storage.join(url, name))) for name in storage.files(url)]
    for note in sorted(notes, key=lambda note: note["at"]):
        digests |= note["files"]
    return digests


@dataclass
class RowMatcher:
    """Matches the rows of a table that have one of the given ids, or whose `content` contains one of the given URLs."""

    ids: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The columns of a table that `mask` reads."""
        return ["id"] if self.ids else ["content"]

    def mask(self, rows: pa.Table) -> Any:
        """Return a boolean for each row: whether the row matches."""
        if self.ids:
            return pc.is_in(rows["id"], pa.array(self.ids))
        content = pc.fill_null(rows["content"], "")
        mask = pc.match_substring(content, self.urls[0])
        for url in self.urls[1:]:
            mask = pc.or_(mask, pc.match_substring(content, url))
        return mask


def _matcher_for(table: str, pairs: dict[str, tuple[str, str]], texts: list[str]) -> RowMatcher:
    """Make the matcher for a table. Rejects match by URL, embeddings also by text id, other rows by the pair's id."""
    if table == "rejects":
        return RowMatcher(urls=[url for url, _ in pairs.values()])
    text_ids = [text_id(text) for text in texts] if table.startswith("embeddings/") else []
    return RowMatcher(ids=[*pairs, *text_ids])


def _forget_in_table(
    lake: Lake, name: str, matcher: RowMatcher, result: ForgetResult, rewritten: dict[str, str]
) -> None:
    """Delete matching rows from a table's current version, and from the files of all older versions."""
    while True:  # a running build may have committed such rows during this time
        table = lake.table(name)
        current, add_files, remove, deleted = table.files(), list[ShardFile](), list[str](), 0
        for path, rest, count in _matching_files(lake, table, list(current), matcher):
            remove.append(path)
            deleted += count
            if rest.num_rows:
                add_files.append(write_file(table.url, current[path][0], rest))
        if not remove:
            break
        record: dict[str, Any] = {"forgotten": deleted}
        if name.startswith("datasets/"):
            before = table.last_record()
            counts = {"kept": before.get("kept", 0) - deleted, "added": 0, "removed": deleted, "changed": 0}
            record = before | counts | record
        if table.replace(add_files, remove, record):
            result.rows[name] = result.rows.get(name, 0) + deleted
    paths = [path for path in storage.files(table.url) if path.endswith(".parquet") and not path.startswith(DELTA_LOG)]
    for path, rest, _ in _matching_files(lake, table, paths, matcher):
        content = encode(rest)
        storage.write(storage.join(table.url, path), content)
        rewritten[f"{name}/{path}"] = digest(content)
    if name.startswith("datasets/") and result.rows.get(name):
        for page in (REPORT, CARD):  # these pages show samples; the next build writes them again
            storage.remove(storage.join(table.url, page))


def _matching_files(
    lake: Lake, table: Table, paths: list[str], matcher: RowMatcher
) -> Iterator[tuple[str, pa.Table, int]]:
    """Yield the files with matching rows: path, the rows that don't match, and the number of matching rows."""
    buckets = {f"bucket={bucket_of(id, lake.config.buckets)}" for id in matcher.ids}
    for path in paths:
        if buckets and path.partition("/")[0] not in buckets:
            continue
        content = pa.BufferReader(storage.read(storage.join(table.url, path)))
        mask = matcher.mask(pq.read_table(content, columns=matcher.columns))
        count = pc.sum(mask).as_py() or 0
        if count:
            content.seek(0)
            rows = pq.read_table(content)
            yield path, rows.filter(pc.invert(mask)), count


def _written_captions(lake: Lake, ids: Iterable[str]) -> list[str]:
    """Read the captions that captioners wrote for some pairs.

    Embeddings are found by their text, so these texts must be read before they are deleted from the captioners' tables.
    Tables are processed in the order of their names, so tables of embeddings come before tables of scores.
    """
    tables = [lake.table(name) for name in lake.table_names() if name.startswith("scores/")]
    texts: set[str | None] = set()
    for table in tables:
        if "text" in table.schema().names:
            texts.update(table.find_rows(ids, ["id", "text"])["text"].to_pylist())
    return sorted(text for text in texts if text is not None)


def _versions_with(lake: Lake, ids: set[str]) -> list[str]:
    """Return the dataset versions that contain at least one of some pairs."""
    names = []
    for table_name in lake.table_names():
        if not table_name.startswith("datasets/"):
            continue
        dataset, has_pair = table_name.removeprefix("datasets/"), dict[str, bool]()  # has_pair: keyed by file
        for version in reversed(versions(lake, dataset)):
            table = lake.table(table_name, version.version)
            for path in table.files():
                if path not in has_pair:
                    file_ids = table.dataset(paths=[path]).to_table(columns=["id"])["id"]
                    has_pair[path] = not ids.isdisjoint(file_ids.to_pylist())
            if any(has_pair[path] for path in table.files()):
                names.append(f"{dataset}@{version.version}")
    return names


def _models_trained_on(lake: Lake, versions: list[str]) -> list[str]:
    table = lake.find(MODELS_TABLE)
    if table is None:
        return []
    models = table.dataset().to_table(columns=["name", "number", "dataset", "version"]).to_pylist()
    return sorted(
        f"{model['name']}/{model['number']}" for model in models if f"{model['dataset']}@{model['version']}" in versions
    )


def _remove_grids(lake: Lake, versions: list[str]) -> None:
    """Remove the sample grids of trainings on some dataset versions, and the pages with them, which show captions."""
    for name in storage.folders(storage.join(lake.url, TRAINING_FOLDER)):
        folder = storage.join(lake.url, TRAINING_FOLDER, name)
        record = storage.join(folder, TRAINING_RECORD)
        if storage.exists(record) and json.loads(storage.read(record))["dataset"] in versions:
            storage.remove(storage.join(folder, GRIDS_PAGE))
            for stage in storage.folders(folder):
                storage.remove(storage.join(folder, stage, GRIDS_FOLDER))


def _host(url: str) -> str:
    from yarl import URL

    try:
        return URL(url.strip()).raw_host or ""
    except ValueError:
        return ""
