"""Reads the rows of a table in a fixed order, in batches: by id, or shuffled in the same way as the reader does.

Files are sorted by id, and all ids in a bucket are smaller than those in the next bucket. So ordering rows by id means
merging the files of one bucket at a time. Memory contains the ids of one bucket, one chunk of rows, and a cache of row
groups for the next chunk. If a bucket has so many files that its row groups don't fit in the cache, each chunk reads
the row groups again.
"""

import json
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DatasetVersionNotFound, ExportError
from data.lake import storage
from data.lake.shard_file import open_files
from data.lake.table import Table
from data.publish.hf_features import METADATA_KEY
from data.reader.order import Order

BATCH = 256  # rows that are yielded together
CHUNK_BYTES = 128 << 20  # bytes of rows that are read together
CACHE_BYTES = 256 << 20  # bytes of row groups that are kept for the next chunk
MIX = 1024  # samples in a shuffled block
OPEN_FILES = 128
READ_THREADS = 4

Places = npt.NDArray[np.int64]  # n x (file, row)


class OrderedRows:
    """The rows of a table, accessed by their position in an order. Rows are shuffled if there is a seed, else by id."""

    def __init__(self, table: Table, seed: int | None = None) -> None:
        files = sorted((bucket, path, rows) for path, (bucket, rows) in table.files().items())
        self.table, self.seed, self.schema = table, seed, table.file_schema()
        self.paths, self.rows = [path for _, path, _ in files], [rows for _, _, rows in files]
        self._buckets = np.array([bucket for bucket, _, _ in files], np.int64)
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()  # (file, row group) → rows
        self._cached_bytes, self._lock = 0, Lock()
        self._opened = lru_cache(OPEN_FILES)(self._open)
        self._places_of_bucket = lru_cache(1)(self._sort_bucket)

    def __len__(self) -> int:
        return sum(self.rows)

    def read(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Yield the rows at positions `start` to `stop` (excluded), in batches of at most BATCH rows.

        Raises:
            DatasetVersionNotFound: a file was removed since the table was opened.
        """
        with ThreadPoolExecutor(READ_THREADS, "export") as pool:
            for places in self._chunks(start, stop):
                yield from self._read_places(places, pool)

    @cached_property
    def embeddings(self) -> dict[str, dict[str, Any]]:
        """Return dtype and dim of each encoder's embeddings, from the metadata of all files.

        Raises:
            ExportError: files have embeddings of different dtypes.
        """
        formats: dict[str, dict[str, Any]] = {}
        if not any(name.endswith("_embedding") for name in self.schema.names):
            return formats
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for file_formats in pool.map(self._embedding_formats, range(len(self.paths))):
                for name, file_format in file_formats.items():
                    known = formats.setdefault(name, file_format)
                    if known["dtype"] != file_format["dtype"]:
                        raise ExportError(
                            f"{self.table.name}: {name} is {known['dtype']} in some files and {file_format['dtype']} "
                            "in others. Build again, then export"
                        )
                    if not known.get("dim"):  # the earlier file has no vector, but this file may have one
                        formats[name] = file_format
        return formats

    def _chunks(self, start: int, stop: int) -> Iterator[Places]:
        """Yield the places (file and row) of the rows at some positions, in chunks of rows that are read together."""
        if self.seed is not None:
            mix = min(MIX, self._chunk_rows)
            for piece in Order.of_epoch(self.rows, self.seed, 0, True, mix).pieces([(start, stop)]):
                units = np.array(piece.units, np.int64)[piece.unit_indices]
                yield np.stack([units[:, 0], units[:, 1] + piece.rows], axis=1)
            return
        for first in range(start, stop, self._chunk_rows):
            yield np.concatenate(list(self._places_by_id(first, min(first + self._chunk_rows, stop))))

    def _places_by_id(self, start: int, stop: int) -> Iterator[Places]:
        """Yield the places of the rows at some positions in the order by id, one bucket at a time."""
        buckets, first_files = np.unique(self._buckets, return_index=True)
        bounds = np.concatenate([[0], np.cumsum(self.rows)])[[*first_files, len(self.rows)]]
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        for bucket, bucket_start, bucket_end in zip(buckets[first:], bounds[first:], bounds[first + 1 :], strict=False):
            if bucket_start >= stop:
                return
            places = self._places_of_bucket(int(bucket))
            yield places[max(start - bucket_start, 0) : min(stop, bucket_end) - bucket_start]

    def _sort_bucket(self, bucket: int) -> Places:
        """Return the places of all rows in a bucket, ordered by id."""
        files = np.flatnonzero(self._buckets == bucket)
        rows, paths = [self.rows[file] for file in files], [self.paths[file] for file in files]
        try:
            ids = open_files(self.table.url, paths, pa.schema([("id", pa.string())])).to_table()["id"]
        except FileNotFoundError:
            raise self._file_gone(f"a file of bucket {bucket}") from None
        places = np.stack([np.repeat(files, rows), np.concatenate([np.arange(count) for count in rows])], axis=1)
        return places[pc.sort_indices(ids).to_numpy()]

    @cached_property
    def _chunk_rows(self) -> int:
        """Return the number of rows that are read together, which is a multiple of BATCH."""
        table_bytes = sum(self.table.file_sizes().values())
        return max(1, CHUNK_BYTES * len(self) // max(1, table_bytes) // BATCH) * BATCH

    def _read_places(self, places: Places, pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
        """Yield the rows at some places, in batches. Each row group is read once, and then the rows are ordered."""
        groups, rows = self._locate_in_groups(places)
        keys, key_of_row = np.unique(np.stack([places[:, 0], groups], axis=1), axis=0, return_inverse=True)
        order = np.argsort(key_of_row.ravel(), kind="stable")
        rows_of_key = np.split(rows[order], np.cumsum(np.bincount(key_of_row.ravel()))[:-1])
        group_keys = [(int(file), int(group)) for file, group in keys]
        by_group = pa.concat_tables(pool.map(self._read_group, group_keys, rows_of_key)).combine_chunks()
        index_by_group = np.argsort(order)  # of each place's row in `by_group`
        for first in range(0, len(places), BATCH):
            yield by_group.take(pa.array(index_by_group[first : first + BATCH]))

    def _locate_in_groups(self, places: Places) -> tuple[Places, Places]:
        """Return the row group of each place, and the row within this row group."""
        groups, rows = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for file in np.unique(places[:, 0]).tolist():
            in_file, group_starts = places[:, 0] == file, self._opened(file)[2]
            groups[in_file] = np.searchsorted(group_starts, places[in_file, 1], side="right") - 1
            rows[in_file] = places[in_file, 1] - group_starts[groups[in_file]]
        return groups, rows

    def _read_group(self, key: tuple[int, int], rows: Places) -> pa.Table:
        """Return some rows of a row group, which is read from its file or taken from the cache."""
        with self._lock:
            group = self._cache.pop(key, None)
            self._cached_bytes -= group.nbytes if group else 0
        if group is None:
            source, footer, _ = self._opened(key[0])
            file = pq.ParquetFile(source, metadata=footer, pre_buffer=not storage.is_local(self.table.url))
            group = self._with_all_columns(file.read_row_group(key[1], use_threads=False))
        with self._lock:
            self._cache[key] = group
            self._cached_bytes += group.nbytes
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return group.take(pa.array(rows))

    def _with_all_columns(self, rows: pa.Table) -> pa.Table:
        """Convert rows to the table's schema. Columns that were added after the file was written become null."""
        columns = [
            rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type)
            for f in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _open(self, file: int) -> tuple[pa.NativeFile, pq.FileMetaData, npt.NDArray[np.int64]]:
        """Open a file. Returns the file, its footer, and the first row of each of its row groups."""
        try:
            source = storage.open_ranges(storage.join(self.table.url, self.paths[file]))
            footer = pq.read_metadata(source)
        except FileNotFoundError:
            raise self._file_gone(self.paths[file]) from None
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        return source, footer, np.cumsum([0, *counts[:-1]])

    def _embedding_formats(self, file: int) -> dict[str, dict[str, Any]]:
        footer = self._opened(file)[1]
        metadata = json.loads((footer.metadata or {}).get(METADATA_KEY, b"{}"))
        return dict(metadata.get("embeddings", {}))

    def _file_gone(self, file: str) -> DatasetVersionNotFound:
        return DatasetVersionNotFound(
            f"{file} is gone from {self.table.url}: the version was vacuumed, export a newer one"
        )
