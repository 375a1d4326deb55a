"""Rows that wait to be written, by bucket: in memory while they are few, then in temporary files on this machine.

So that a bucket's file in the lake can be large however many buckets there are, and the memory stays small.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.ipc

IN_MEMORY = 128 << 20  # bytes, before they go to a file


class SpillBuffer(Mapping[int, list[pa.Table]], AbstractContextManager["SpillBuffer"]):
    """The parts of each bucket, in the order in which they were added."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="imagen-")
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def add(self, parts: Iterator[tuple[int, pa.Table]]) -> None:
        for bucket, part in parts:
            self._here[bucket].append(part)
            self.rows += part.num_rows
            self.size += part.nbytes
            self._here_size += part.nbytes
        if self._here_size >= IN_MEMORY:
            self._put_away()

    def clear(self) -> None:
        for file in Path(self._folder.name).iterdir():
            file.unlink()
        self.rows = self.size = self._here_size = 0
        self._here: dict[int, list[pa.Table]] = defaultdict(list)
        self._there: dict[int, list[tuple[Path, int]]] = defaultdict(list)  # a file, and which of its batches

    def __getitem__(self, bucket: int) -> list[pa.Table]:
        if bucket not in self._here and bucket not in self._there:
            raise KeyError(bucket)
        return [_taken(path, number) for path, number in self._there.get(bucket, [])] + self._here.get(bucket, [])

    def __iter__(self) -> Iterator[int]:
        return iter(sorted({*self._here, *self._there}))

    def __len__(self) -> int:
        return len({*self._here, *self._there})

    def _put_away(self) -> None:
        path = Path(self._folder.name) / f"{self.rows}.arrow"
        schema = next(iter(self._here.values()))[0].schema
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
            for number, (bucket, parts) in enumerate(self._here.items()):
                writer.write_batch(pa.concat_tables(parts).combine_chunks().to_batches()[0])
                self._there[bucket].append((path, number))
        self._here, self._here_size = defaultdict(list), 0


def _taken(path: Path, number: int) -> pa.Table:
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as batches:
        return pa.Table.from_batches([batches.get_batch(number)])
