"""A dataset version written to a folder for others: webdataset tars, plain Parquet, or the Hub's layout with a card.

A shard is there whole or not at all. A marker says what the folder is becoming until all are there, so that an export
that was killed goes on where it was, and no two are mixed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError

from data.errors import ExportError
from data.export.hub_card import CARD, card
from data.export.in_order import Ordered
from data.export.shards import write_parquet, write_tar
from data.lake import storage
from data.lake.lake import Lake
from data.publish.versions import Version, version_of

MARKER = "_unfinished-export.json"
SHARD_SIZE = 10_000


class Format(StrEnum):
    webdataset = "webdataset"
    parquet = "parquet"
    hf = "hf"


@dataclass(frozen=True)
class ExportShard:
    name: str
    samples: int
    bytes: int


@dataclass
class Exported:
    """What lies in the folder now."""

    dataset: str
    version: int
    format: str
    url: str
    shuffle: int | None
    samples: int
    bytes: int = 0
    found: int = 0  # shards that an earlier, interrupted export had finished
    shards: list[ExportShard] = field(default_factory=list)


def export(
    lake: Lake,
    dataset: str,
    version: int | None,
    url: str,
    format: Format,
    shard_size: int = SHARD_SIZE,
    shuffle: int | None = None,
    on_plan: Callable[[int], None] = lambda samples: None,
    on_samples: Callable[[int], None] = lambda samples: None,
) -> Exported:
    """Write a version (the newest if none) to an empty folder, in the order of ids or in that of the seed `shuffle`."""
    which = version_of(lake, dataset, version)
    rows = Ordered(lake.table(f"datasets/{dataset}", which.version), shuffle)
    if not len(rows):
        raise ExportError(f"{dataset}@{which.version} holds no samples, there is nothing to export")
    embeddings = rows.embeddings
    begun = _begin(url, _mark(which, rows, format, shard_size))
    names = _names(format, -(-len(rows) // shard_size))
    done = [name for name in names if storage.exists(storage.join(url, name))] if begun else []
    exported = Exported(dataset, which.version, format.value, url, shuffle, len(rows), found=len(done))
    spans = [(at, min(at + shard_size, len(rows))) for at in range(0, len(rows), shard_size)]
    on_plan(sum(stop - start for name, (start, stop) in zip(names, spans, strict=True) if name not in done))
    pack: Callable[[Path, Iterable[pa.Table]], None] = (
        partial(write_tar, embeddings=embeddings)
        if format is Format.webdataset
        else partial(write_parquet, schema=rows.schema, embeddings=embeddings)
    )
    for name, (start, stop) in zip(names, spans, strict=True):
        place = storage.join(url, name)
        try:
            if name not in done:
                with storage.atomic_file(place) as path:
                    pack(path, _told(rows.read(start, stop), on_samples))
            exported.shards.append(ExportShard(name, stop - start, storage.size(place)))
        except (OSError, BotoCoreError) as error:
            raise ExportError(f"the export broke off at {place}: {error}. Run it again to go on from there") from error
    exported.bytes = sum(shard.bytes for shard in exported.shards)
    if format is Format.hf:
        content = sum(_content(storage.join(url, shard.name)) for shard in exported.shards)
        text = card(lake, which, rows.schema, len(rows), exported.bytes, content)
        storage.write(storage.join(url, CARD), text.encode())
    storage.remove(storage.join(url, MARKER))
    return exported


def _begin(url: str, mark: str) -> bool:
    """Mark an empty folder as ours; true if this very export was begun there before."""
    marker = storage.join(url, MARKER)
    try:
        if storage.exists(marker):
            if storage.read(marker).decode() == mark:
                return True
            raise ExportError(f"{url} holds an unfinished export of something else. Remove it, or name another folder")
        if not storage.is_empty(url):
            raise ExportError(f"{url} is not empty. Name an empty folder, or one that does not exist yet")
        storage.write(marker, mark.encode())
    except storage.UNREACHABLE as error:
        raise ExportError(f"{url} can't be written: {error}. Check the address and the credentials") from None
    return False


def _mark(version: Version, rows: Ordered, format: Format, shard_size: int) -> str:
    """Says all that decides what the shards hold."""
    files = hashlib.sha256("\n".join(rows.paths).encode()).hexdigest()
    said = {"dataset": version.dataset, "version": version.version, "files": files}
    return json.dumps({**said, "format": format.value, "shard_size": shard_size, "shuffle": rows.seed}, indent=2)


def _names(format: Format, count: int) -> list[str]:
    if format is Format.hf:
        return [f"data/train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    ending = "tar" if format is Format.webdataset else "parquet"
    return [f"{number:05d}.{ending}" for number in range(count)]


def _told(batches: Iterable[pa.Table], on_samples: Callable[[int], None]) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch
        on_samples(batch.num_rows)


def _content(url: str) -> int:
    """The bytes of a Parquet file before compression."""
    with storage.open_ranges(url) as source:
        footer = pq.read_metadata(source)
        return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
