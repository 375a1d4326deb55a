"""A buffer of rows keyed by bucket. It is in memory while small, and then in temporary files on this machine's disk.

With the buffer, the lake gets large files per bucket, however many buckets there are, and memory stays bounded.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.ipc

IN_MEMORY = 128 << 20  # bytes that are kept in memory before they are written to a file


class SpillBuffer(Mapping[int, list[pa.Table]], AbstractContextManager["SpillBuffer"]):
    """Maps each bucket to its tables, in the order in which they were added.

    Use it in a `with` block, which removes the temporary files.

    Attributes:
        rows: The number of rows in the buffer.
        size: The uncompressed size of these rows in bytes.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imagen-")
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, parts: Iterator[tuple[int, pa.Table]]) -> None:
        """Add tables with their buckets."""
        for bucket, part in parts:
            self._in_memory[bucket].append(part)
            self.rows += part.num_rows
            self.size += part.nbytes
            self._memory_size += part.nbytes
        if self._memory_size >= IN_MEMORY:
            self._spill()

    def clear(self) -> None:
        """Remove all rows."""
        for file in Path(self._folder.name).iterdir():
            file.unlink()
        self.rows = self.size = self._memory_size = 0
        self._in_memory: dict[int, list[pa.Table]] = defaultdict(list)
        self._on_disk: dict[int, list[tuple[Path, int]]] = defaultdict(list)  # files, and the record batch in each

    def __getitem__(self, bucket: int) -> list[pa.Table]:
        if bucket not in self._in_memory and bucket not in self._on_disk:
            raise KeyError(bucket)
        spilled = [_read_batch(path, number) for path, number in self._on_disk.get(bucket, [])]
        return spilled + self._in_memory.get(bucket, [])

    def __iter__(self) -> Iterator[int]:
        return iter(sorted({*self._in_memory, *self._on_disk}))

    def __len__(self) -> int:
        return len({*self._in_memory, *self._on_disk})

    def _spill(self) -> None:
        """Write the rows in memory to one file, with one record batch per bucket."""
        path = Path(self._folder.name) / f"{self.rows}.arrow"
        schema = next(iter(self._in_memory.values()))[0].schema
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
            for number, (bucket, parts) in enumerate(self._in_memory.items()):
                writer.write_batch(pa.concat_tables(parts).combine_chunks().to_batches()[0])
                self._on_disk[bucket].append((path, number))
        self._in_memory, self._memory_size = defaultdict(list), 0


def _read_batch(path: Path, number: int) -> pa.Table:
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as batches:
        return pa.Table.from_batches([batches.get_batch(number)])
