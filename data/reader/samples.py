"""Rows of a published file as samples for training: what is asked for is read, and decoded when it is given out.

A picture is a uint8 tensor [3, height, width] in RGB, an embedding a tensor [length, dim] in the type it was stored in,
all else what Python has for it; a null is None.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from data.errors import DatasetVersionNotFound, SampleDamaged
from data.lake import storage
from data.publish.hf_features import METADATA_KEY, picture_columns
from data.reader.order import Unit

OPEN_FILES = 64  # kept open with their footers
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Column(Protocol):
    """One column of the rows that were read together."""

    def __getitem__(self, row: int, /) -> Any: ...


def askable(schema: pa.Schema) -> dict[str, list[str]]:
    """What a sample can have, and the Parquet columns that it takes; an encoder's two go by its name."""
    names = set(schema.names)
    encoders = [name.removesuffix("_embedding") for name in schema.names if name.endswith("_embedding")]
    parts = {name: [f"{name}_embedding", f"{name}_length"] for name in encoders if f"{name}_length" in names}
    taken = {part for both in parts.values() for part in both}
    seen = picture_columns(schema)
    plain = {name: [f"{name}.bytes" if name in seen else name] for name in schema.names if name not in taken}
    return plain | parts


class Files:
    """The files of a dataset version, for several threads to read; the last few are kept open."""

    def __init__(self, url: str, paths: Sequence[str], columns: Mapping[str, list[str]]) -> None:
        self.url, self.paths, self.columns = url, paths, columns
        self._leaves = [leaf for leaves in columns.values() for leaf in leaves]
        self._far = not storage.is_local(url)
        self._open: OrderedDict[int, tuple[pa.NativeFile, pq.FileMetaData]] = OrderedDict()
        self._lock = Lock()

    def read(self, unit: Unit) -> dict[str, Column]:
        """The asked columns of some neighbouring rows."""
        source, footer = self._opened(unit.file)
        file = pq.ParquetFile(source, metadata=footer, pre_buffer=self._far)
        groups: list[int] = []
        start = skip = 0
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group).num_rows
            if start < unit.first + unit.rows and unit.first < start + rows:
                skip = skip if groups else unit.first - start
                groups.append(group)
            start += rows
        rows = file.read_row_groups(groups, self._leaves, use_threads=False).slice(skip, unit.rows).combine_chunks()
        note = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}")).get("embeddings", {})
        where = f"row {{}} of {self.paths[unit.file]}"
        return {name: self._column(name, rows, note.get(name, {}), unit, where) for name in self.columns}

    def _column(self, name: str, rows: pa.Table, note: dict[str, Any], unit: Unit, where: str) -> Column:
        leaves = [leaf.partition(".")[0] for leaf in self.columns[name]]
        if not set(leaves) <= set(rows.column_names):
            return [None] * unit.rows  # the column is younger than the file
        if self.columns[name] != leaves:
            return Pictures(rows[name].chunk(0).flatten()[0], where, unit.first)
        if len(leaves) == 2:
            dtype = DTYPES[note.get("dtype", "float16")]
            return Embeddings(rows[leaves[0]].chunk(0), rows[leaves[1]].to_pylist(), dtype, note.get("dim"))
        return rows[name].to_pylist()

    def _opened(self, file: int) -> tuple[pa.NativeFile, pq.FileMetaData]:
        with self._lock:
            if file in self._open:
                self._open.move_to_end(file)
                return self._open[file]
        try:
            source = storage.open_ranges(storage.join(self.url, self.paths[file]))
        except FileNotFoundError:
            raise DatasetVersionNotFound(
                f"{self.paths[file]} is gone from {self.url}: the version was vacuumed, read a newer one"
            ) from None
        opened = source, pq.read_metadata(source)
        with self._lock:
            self._open[file] = opened
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)  # closed when the last thread that reads it is done
        return opened


class _Bytes:
    """A column of bytes, without an object for each."""

    def __init__(self, array: pa.BinaryArray) -> None:
        _, offsets, content = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        self.ends = ends.tolist()
        self.content = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
        self.there = array.is_valid().to_pylist()

    def bytes(self, row: int) -> Any:
        return self.content[self.ends[row] : self.ends[row + 1]]


class Pictures(_Bytes):
    def __init__(self, array: pa.BinaryArray, where: str, first: int) -> None:
        super().__init__(array)
        self.where, self.first = where, first

    def __getitem__(self, row: int, /) -> torch.Tensor | None:  # 3 h w
        if not self.there[row]:
            return None
        encoded = self.bytes(row)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if len(encoded) else None
        if pixels is None:
            raise SampleDamaged(f"the picture in {self.where.format(self.first + row)} can't be decoded")
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class Embeddings(_Bytes):
    def __init__(self, array: pa.BinaryArray, lengths: list[int], dtype: torch.dtype, dim: int | None) -> None:
        super().__init__(array)
        self.lengths, self.dtype, self.dim = lengths, dtype, dim

    def __getitem__(self, row: int, /) -> torch.Tensor | None:  # length dim
        if not self.there[row]:
            return None
        length = self.lengths[row]
        if not length:
            return torch.empty(0, self.dim or 0, dtype=self.dtype)
        return torch.from_numpy(self.bytes(row).copy()).view(self.dtype).view(length, -1)
