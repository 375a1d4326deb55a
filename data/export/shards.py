"""Samples packed into files that others read: webdataset tars, and Parquet as Hugging Face knows it.

The same samples give the same bytes: members are sorted, nothing has a time.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import SampleDamaged
from data.lake.table import BINARY_ROW_GROUP
from data.publish.hf_features import METADATA_KEY, hf_metadata, picture_columns
from data.sources.rows import as_json

STARTS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}  # how a picture of each format begins

Notes = Mapping[str, Mapping[str, Any]]


def write_tar(path: Path, batches: Iterable[pa.Table], embeddings: Notes) -> None:
    """Samples as members that share a name: picture, caption, facts, and a NumPy file for each embedding."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for batch in batches:
            seen = picture_columns(batch.schema)
            for sample in _plain(batch):
                for name, body in sorted(_members(sample, seen, embeddings)):
                    member = tarfile.TarInfo(f"{sample['id']}.{name}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all


def write_parquet(path: Path, batches: Iterable[pa.Table], schema: pa.Schema, embeddings: Notes) -> None:
    """Samples as rows, with the note by which `datasets` gives back pictures."""
    note = {key.encode(): value.encode() for key, value in hf_metadata(schema).items()}
    if embeddings:
        note[METADATA_KEY] = json.dumps({"embeddings": embeddings}, sort_keys=True).encode()
    schema = schema.with_metadata(note)
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts, write_statistics=["id"]) as writer:
        for batch in batches:
            writer.write_table(batch.replace_schema_metadata(note), row_group_size=BINARY_ROW_GROUP)


def _plain(batch: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as mappings; a float32 has as many digits as tell it from the next one."""
    columns = {}
    for field in batch.schema:
        values = batch[field.name]
        if pa.types.is_float32(field.type):
            columns[field.name] = [text and float(text) for text in values.cast(pa.string()).to_pylist()]
        else:
            columns[field.name] = values.to_pylist()
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _members(sample: dict[str, Any], picture_columns: Sequence[str], embeddings: Notes) -> Iterator[tuple[str, bytes]]:
    for column in picture_columns:
        if sample[column] is not None or column == "image":
            yield ".".join([*column.split("_")[1:], _kind(sample, column)]), sample[column]["bytes"]
    yield "txt", (sample["caption"] or "").encode()
    packed = {*picture_columns, *(f"{name}_embedding" for name in embeddings)}
    yield "json", as_json({name: value for name, value in sample.items() if name not in packed}).encode()
    for name, note in embeddings.items():
        vectors = sample[f"{name}_embedding"]
        if vectors is not None:
            yield f"{name}.npy", _npy(vectors, sample[f"{name}_length"], note)


def _kind(sample: dict[str, Any], column: str) -> str:
    picture = (sample[column] or {}).get("bytes") or b""
    for start, kind in STARTS.items():
        if picture.startswith(start):
            return kind
    raise SampleDamaged(f"the picture of sample {sample['id']} is no JPEG, PNG or WebP. Build again, then export")


def _npy(packed: bytes, length: int, note: Mapping[str, Any]) -> bytes:
    """An embedding as a NumPy file; NumPy has no bfloat16, whose values are the same in float32."""
    if note["dtype"] == "bfloat16":
        values = (np.frombuffer(packed, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(packed, "<f2")
    file = io.BytesIO()
    np.save(file, values.reshape(length, -1 if length else note.get("dim") or 0), allow_pickle=False)
    return file.getvalue()
