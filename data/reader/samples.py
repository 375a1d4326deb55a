"""Reads rows of published files as training samples. Only requested columns are read, and values are decoded on use.

A picture is a uint8 tensor [3, height, width] in RGB. An embedding is a tensor [length, dim] in its stored dtype. Other
values are Python objects. A null becomes None.
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

OPEN_FILES = 64  # files that are kept open with their footers
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Column(Protocol):
    """One column of a unit's rows. Indexing decodes the value of a row."""

    def __getitem__(self, row: int, /) -> Any: ...


def readable_columns(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the columns that a sample can have, each with the Parquet columns that it is read from.

    An encoder's two columns, such as t5_embedding and t5_length, become one column with the encoder's name, t5.
    """
    encoders: dict[str, list[str]] = {}
    for column in schema.names:
        name = column.removesuffix("_embedding")
        if name != column and f"{name}_length" in schema.names:
            encoders[name] = [column, f"{name}_length"]
    encoder_parts = {part for parts in encoders.values() for part in parts}
    pictures = picture_columns(schema)
    columns = {}
    for name in schema.names:
        if name not in encoder_parts:
            columns[name] = [f"{name}.bytes" if name in pictures else name]
    return columns | encoders


class DatasetFiles:
    """The files of a dataset version. Several threads may read concurrently. The most recently used files stay open."""

    def __init__(self, url: str, paths: Sequence[str], columns: Mapping[str, list[str]]) -> None:
        """Prepare to read the requested `columns`, which have the form of `readable_columns`."""
        self.url, self.paths, self.columns = url, paths, columns
        self._parquet_columns = [part for parts in columns.values() for part in parts]
        self._is_remote = not storage.is_local(url)
        self._open: OrderedDict[int, tuple[pa.NativeFile, pq.FileMetaData]] = OrderedDict()
        self._lock = Lock()

    def read(self, unit: Unit) -> dict[str, Column]:
        """Read the requested columns of a unit's rows.

        Raises:
            DatasetVersionNotFound: the file has been removed.
        """
        source, footer = self._open_file(unit.file)
        file = pq.ParquetFile(source, metadata=footer, pre_buffer=self._is_remote)
        groups: list[int] = []
        start = skip = 0
        for group in range(footer.num_row_groups):
            group_rows = footer.row_group(group).num_rows
            if start < unit.first + unit.rows and unit.first < start + group_rows:
                skip = skip if groups else unit.first - start
                groups.append(group)
            start += group_rows
        table = file.read_row_groups(groups, self._parquet_columns, use_threads=False)
        rows = table.slice(skip, unit.rows).combine_chunks()
        metadata = json.loads((file.schema_arrow.metadata or {}).get(METADATA_KEY, b"{}"))
        embeddings = metadata.get("embeddings", {})
        return {name: self._column(name, rows, embeddings.get(name, {}), unit) for name in self.columns}

    def _column(self, name: str, rows: pa.Table, embedding: dict[str, Any], unit: Unit) -> Column:
        """Make one requested column. `embedding` is the encoder's dtype and dim from the file's metadata."""
        parts = [part.partition(".")[0] for part in self.columns[name]]
        if not set(parts) <= set(rows.column_names):
            return [None] * unit.rows  # the column was added to the dataset after this file was written
        if self.columns[name] != parts:
            return PictureColumn(rows[name].chunk(0).flatten()[0], self.paths[unit.file], unit.first)
        if len(parts) == 2:
            dtype = DTYPES[embedding.get("dtype", "float16")]
            lengths = rows[parts[1]].to_pylist()
            return EmbeddingColumn(rows[parts[0]].chunk(0), lengths, dtype, embedding.get("dim"))
        return rows[name].to_pylist()

    def _open_file(self, file: int) -> tuple[pa.NativeFile, pq.FileMetaData]:
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
                self._open.popitem(last=False)  # the file closes when the last thread that reads it is done
        return opened


class _BinaryColumn:
    """A column of byte strings as views into one buffer, without a Python object for each row."""

    def __init__(self, array: pa.BinaryArray) -> None:
        _, offsets, content = array.buffers()
        row_offsets = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        self.offsets = row_offsets.tolist()
        self.content = np.frombuffer(content, np.uint8) if content is not None else np.empty(0, np.uint8)
        self.is_valid = array.is_valid().to_pylist()

    def bytes(self, row: int) -> Any:
        """Return a row's bytes as a uint8 array."""
        return self.content[self.offsets[row] : self.offsets[row + 1]]


class PictureColumn(_BinaryColumn):
    """A column of encoded pictures. Indexing decodes one to uint8 [3, height, width] RGB, or raises SampleDamaged."""

    def __init__(self, array: pa.BinaryArray, path: str, first_row: int) -> None:
        super().__init__(array)
        self.path, self.first_row = path, first_row  # for error messages

    def __getitem__(self, row: int, /) -> torch.Tensor | None:  # 3 h w
        if not self.is_valid[row]:
            return None
        encoded = self.bytes(row)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB) if len(encoded) else None
        if pixels is None:
            raise SampleDamaged(f"the picture in row {self.first_row + row} of {self.path} can't be decoded")
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


class EmbeddingColumn(_BinaryColumn):
    """A column of embeddings as raw bytes. Indexing returns one as a tensor [length, dim]."""

    def __init__(self, array: pa.BinaryArray, lengths: list[int], dtype: torch.dtype, dim: int | None) -> None:
        super().__init__(array)
        self.lengths, self.dtype, self.dim = lengths, dtype, dim

    def __getitem__(self, row: int, /) -> torch.Tensor | None:  # length dim
        if not self.is_valid[row]:
            return None
        length = self.lengths[row]
        if not length:
            return torch.empty(0, self.dim or 0, dtype=self.dtype)
        return torch.from_numpy(self.bytes(row).copy()).view(self.dtype).view(length, -1)
