"""The rows of a table in order, a batch at a time: by id, or shuffled as the reader shuffles an epoch.

Files are sorted by id and buckets follow each other in it, so the order of ids is a merge of the files of one bucket at
a time. What is held is a bucket's ids, a stretch of rows, and the row groups at its edges. Where a bucket has so many
files that their row groups don't fit, each stretch reads these again.
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
from data.lake.table import Table, open_files
from data.publish.hf_features import METADATA_KEY
from data.reader.order import Order

BATCH = 256  # rows that are given out at once
STRETCH = 128 << 20  # bytes of rows that are gathered at once
HELD = 256 << 20  # bytes of row groups that are kept for the next stretch
MIX = 1024  # shuffled rows that are mixed with each other
OPEN_FILES = 128
READERS = 4

Places = npt.NDArray[np.int64]  # n × (file, row)


class Ordered:
    """The rows of a table by position, in the order that a seed gives; without one in that of ids."""

    def __init__(self, table: Table, seed: int | None = None) -> None:
        files = sorted((bucket, path, rows) for path, (bucket, rows) in table.files().items())
        self.table, self.seed, self.schema = table, seed, table.file_schema()
        self.paths, self.rows = [path for _, path, _ in files], [rows for _, _, rows in files]
        self._buckets = np.array([bucket for bucket, _, _ in files], np.int64)
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._held, self._lock = 0, Lock()
        self._opened = lru_cache(OPEN_FILES)(self._open)
        self._in_bucket = lru_cache(1)(self._sorted)

    def __len__(self) -> int:
        return sum(self.rows)

    def read(self, start: int, stop: int) -> Iterator[pa.Table]:
        """The rows at positions from `start` to `stop`, about a batch at a time."""
        with ThreadPoolExecutor(READERS, "export") as pool:
            for places in self._stretches(start, stop):
                yield from self._gather(places, pool)

    @cached_property
    def embeddings(self) -> dict[str, dict[str, Any]]:
        """What the files' notes say of the encoders' columns; an error where they say different things."""
        said: dict[str, dict[str, Any]] = {}
        if any(name.endswith("_embedding") for name in self.schema.names):
            with ThreadPoolExecutor(READERS) as pool:
                for note in pool.map(self._note, range(len(self.paths))):
                    for name, one in note.items():
                        if said.setdefault(name, one)["dtype"] != one["dtype"]:
                            kinds = f"{said[name]['dtype']} in some files and {one['dtype']} in others"
                            raise ExportError(f"{self.table.name}: {name} is {kinds}. Build again, then export")
                        said[name] = said[name] if said[name].get("dim") else one
        return said

    def _stretches(self, start: int, stop: int) -> Iterator[Places]:
        if self.seed is not None:
            mix = min(MIX, self._stretch)
            for piece in Order.of_epoch(self.rows, self.seed, 0, True, mix).pieces([(start, stop)]):
                units = np.array(piece.units, np.int64)[piece.unit_indices]
                yield np.stack([units[:, 0], units[:, 1] + piece.rows], axis=1)
            return
        for at in range(start, stop, self._stretch):
            yield np.concatenate(list(self._by_id(at, min(at + self._stretch, stop))))

    def _by_id(self, start: int, stop: int) -> Iterator[Places]:
        """The places of some positions in the order of ids, a bucket's at a time."""
        buckets, firsts = np.unique(self._buckets, return_index=True)
        bounds = np.concatenate([[0], np.cumsum(self.rows)])[[*firsts, len(self.rows)]]
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        for bucket, begin, end in zip(buckets[first:], bounds[first:], bounds[first + 1 :], strict=False):
            if begin >= stop:
                return
            yield self._in_bucket(int(bucket))[max(start - begin, 0) : min(stop, end) - begin]

    def _sorted(self, bucket: int) -> Places:
        files = np.flatnonzero(self._buckets == bucket)
        rows, paths = [self.rows[file] for file in files], [self.paths[file] for file in files]
        try:
            ids = open_files(self.table.url, paths, pa.schema([("id", pa.string())])).to_table()["id"]
        except FileNotFoundError:
            raise self._gone(f"a file of bucket {bucket}") from None
        places = np.stack([np.repeat(files, rows), np.concatenate([np.arange(count) for count in rows])], axis=1)
        return places[pc.sort_indices(ids).to_numpy()]

    @cached_property
    def _stretch(self) -> int:
        """How many rows a stretch has: some whole batches."""
        size = sum(self.table.file_sizes().values())
        return max(1, STRETCH * len(self) // max(1, size) // BATCH) * BATCH

    def _gather(self, places: Places, pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
        """The rows at some places: each row group is read once, and the rows are put in their order."""
        groups, rows = self._in_groups(places)
        keys, owners = np.unique(np.stack([places[:, 0], groups], axis=1), axis=0, return_inverse=True)
        order = np.argsort(owners.ravel(), kind="stable")
        wanted = np.split(rows[order], np.cumsum(np.bincount(owners.ravel()))[:-1])
        named = [(int(file), int(group)) for file, group in keys]
        gathered = pa.concat_tables(pool.map(self._rows, named, wanted)).combine_chunks()
        back = np.argsort(order)  # where among the gathered rows that of each place lies
        for at in range(0, len(places), BATCH):
            yield gathered.take(pa.array(back[at : at + BATCH]))

    def _in_groups(self, places: Places) -> tuple[Places, Places]:
        """The row group of each place, and its row in that."""
        groups, rows = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for file in np.unique(places[:, 0]).tolist():
            here, starts = places[:, 0] == file, self._opened(file)[2]
            groups[here] = np.searchsorted(starts, places[here, 1], side="right") - 1
            rows[here] = places[here, 1] - starts[groups[here]]
        return groups, rows

    def _rows(self, key: tuple[int, int], rows: Places) -> pa.Table:
        with self._lock:
            found = self._groups.pop(key, None)
            self._held -= found.nbytes if found else 0
        if found is None:
            source, footer, _ = self._opened(key[0])
            file = pq.ParquetFile(source, metadata=footer, pre_buffer=not storage.is_local(self.table.url))
            found = self._whole(file.read_row_group(key[1], use_threads=False))
        with self._lock:
            self._groups[key] = found
            self._held += found.nbytes
            while self._held > HELD:
                self._held -= self._groups.popitem(last=False)[1].nbytes
        return found.take(pa.array(rows))

    def _whole(self, rows: pa.Table) -> pa.Table:
        """With every column of the table, also those younger than the file."""
        columns = [
            rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type)
            for f in self.schema
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _open(self, file: int) -> tuple[pa.NativeFile, pq.FileMetaData, npt.NDArray[np.int64]]:
        try:
            source = storage.open_ranges(storage.join(self.table.url, self.paths[file]))
            footer = pq.read_metadata(source)
        except FileNotFoundError:
            raise self._gone(self.paths[file]) from None
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        return source, footer, np.cumsum([0, *counts[:-1]])

    def _note(self, file: int) -> dict[str, dict[str, Any]]:
        footer = self._opened(file)[1]
        note = (footer.metadata or {}).get(METADATA_KEY, b"{}")
        return dict(json.loads(note).get("embeddings", {}))

    def _gone(self, what: str) -> DatasetVersionNotFound:
        return DatasetVersionNotFound(
            f"{what} is gone from {self.table.url}: the version was vacuumed, take a newer one"
        )
