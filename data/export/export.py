"""Exports a dataset version to a folder, as webdataset tars, Parquet files, or a Hugging Face dataset with its card.

A shard is either complete or absent. Until all shards are written, a marker file identifies the export in the folder.
So an interrupted export can be resumed, and two different exports can't be mixed.
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
from data.export.in_order import OrderedRows
from data.export.shards import write_parquet, write_tar
from data.lake import storage
from data.lake.lake import Lake
from data.publish.versions import Version, version_of

MARKER = "_unfinished-export.json"
SHARD_SIZE = 10_000


class Format(StrEnum):
    """The layout of an export. `hf` is a dataset folder in the layout of the Hugging Face Hub."""

    webdataset = "webdataset"
    parquet = "parquet"
    hf = "hf"


@dataclass(frozen=True)
class ExportShard:
    """One file of an export."""

    name: str  # relative to the folder
    samples: int
    bytes: int


@dataclass
class Exported:
    """A finished export."""

    dataset: str
    version: int
    format: str
    url: str
    shuffle: int | None
    samples: int
    bytes: int = 0
    found: int = 0  # shards that an earlier, interrupted run of the same export wrote
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
    """Export a version of a dataset. The same version and arguments always give the same bytes.

    If an export is interrupted, call this again with the same arguments to resume it. Finished shards are kept.

    Args:
        lake: the lake that contains the dataset.
        dataset: the dataset's name.
        version: the dataset's version; None for the newest.
        url: an empty or new folder, or a folder with the same, unfinished export.
        format: the layout.
        shard_size: the number of samples per file.
        shuffle: the seed of a shuffled order; None to order samples by id.
        on_plan: called once with the number of samples to write.
        on_samples: called with the number of samples after each written batch.

    Raises:
        ExportError: the folder contains something else or can't be written, the version is empty, or writing failed.
        DatasetNotFound: the lake has no such dataset.
        DatasetVersionNotFound: the dataset has no such version, or its files were vacuumed.
        SampleDamaged: a picture is neither JPEG, PNG nor WebP.
    """
    published = version_of(lake, dataset, version)
    rows = OrderedRows(lake.table(f"datasets/{dataset}", published.version), shuffle)
    if not len(rows):
        raise ExportError(f"{dataset}@{published.version} has no samples to export")
    embeddings = rows.embeddings
    resumes = _claim_folder(url, _marker_text(published, rows, format, shard_size))
    names = _shard_names(format, -(-len(rows) // shard_size))
    finished = [name for name in names if storage.exists(storage.join(url, name))] if resumes else []
    exported = Exported(dataset, published.version, format.value, url, shuffle, len(rows), found=len(finished))
    ranges = [(start, min(start + shard_size, len(rows))) for start in range(0, len(rows), shard_size)]
    on_plan(sum(stop - start for name, (start, stop) in zip(names, ranges, strict=True) if name not in finished))
    write_shard: Callable[[Path, Iterable[pa.Table]], None] = (
        partial(write_tar, embeddings=embeddings)
        if format is Format.webdataset
        else partial(write_parquet, schema=rows.schema, embeddings=embeddings)
    )
    for name, (start, stop) in zip(names, ranges, strict=True):
        shard_url = storage.join(url, name)
        try:
            if name not in finished:
                with storage.atomic_file(shard_url) as path:
                    write_shard(path, _report_progress(rows.read(start, stop), on_samples))
            exported.shards.append(ExportShard(name, stop - start, storage.size(shard_url)))
        except (OSError, BotoCoreError) as error:
            raise ExportError(
                f"the export stopped at {shard_url}: {error}. Run it again to continue from there"
            ) from error
    exported.bytes = sum(shard.bytes for shard in exported.shards)
    if format is Format.hf:
        uncompressed = sum(_uncompressed_bytes(storage.join(url, shard.name)) for shard in exported.shards)
        text = card(lake, published, rows.schema, len(rows), exported.bytes, uncompressed)
        storage.write(storage.join(url, CARD), text.encode())
    storage.remove(storage.join(url, MARKER))
    return exported


def _claim_folder(url: str, marker_text: str) -> bool:
    """Write the marker into an empty folder.

    Returns:
        True if the folder already has this marker, so the export is resumed.

    Raises:
        ExportError: the folder is not empty, has another export's marker, or can't be written.
    """
    marker = storage.join(url, MARKER)
    try:
        if storage.exists(marker):
            if storage.read(marker).decode() == marker_text:
                return True
            raise ExportError(
                f"{url} holds an unfinished export of something else. Remove it, or choose another folder"
            )
        if not storage.is_empty(url):
            raise ExportError(f"{url} is not empty. Choose an empty folder, or one that does not exist yet")
        storage.write(marker, marker_text.encode())
    except storage.UNREACHABLE as error:
        raise ExportError(f"{url} can't be written: {error}. Check the address and the credentials") from None
    return False


def _marker_text(version: Version, rows: OrderedRows, format: Format, shard_size: int) -> str:
    """Return a JSON text with everything that determines the content of the shards."""
    content = {
        "dataset": version.dataset,
        "version": version.version,
        "files": hashlib.sha256("\n".join(rows.paths).encode()).hexdigest(),
        "format": format.value,
        "shard_size": shard_size,
        "shuffle": rows.seed,
    }
    return json.dumps(content, indent=2)


def _shard_names(format: Format, count: int) -> list[str]:
    if format is Format.hf:
        return [f"data/train-{number:05d}-of-{count:05d}.parquet" for number in range(count)]
    suffix = "tar" if format is Format.webdataset else "parquet"
    return [f"{number:05d}.{suffix}" for number in range(count)]


def _report_progress(batches: Iterable[pa.Table], on_samples: Callable[[int], None]) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch
        on_samples(batch.num_rows)


def _uncompressed_bytes(url: str) -> int:
    """Return the size of a Parquet file's content before compression, in bytes."""
    with storage.open_ranges(url) as source:
        footer = pq.read_metadata(source)
        return sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
