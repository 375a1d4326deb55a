"""Writes samples as one shard: a webdataset tar, or a Parquet file that Hugging Face's `datasets` can read.

The same samples always give the same bytes, because members are sorted and have no time stamp.
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
from data.lake.shard_file import BINARY_ROW_GROUP
from data.publish.hf_features import METADATA_KEY, hf_metadata, picture_columns
from data.sources.rows import as_json

MAGIC_BYTES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}  # first bytes of each format

EmbeddingFormats = Mapping[str, Mapping[str, Any]]  # encoder → dtype and dim


def write_tar(path: Path, batches: Iterable[pa.Table], embeddings: EmbeddingFormats) -> None:
    """Write samples as a webdataset tar.

    The key of a sample is its id. Its members are the picture and its smaller copies (such as jpg, 256.jpg), the
    caption (txt), the other columns (json), and one NumPy file per embedding (t5.npy).

    Raises:
        SampleDamaged: a picture is neither JPEG, PNG nor WebP.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for batch in batches:
            pictures = picture_columns(batch.schema)
            for sample in _samples(batch):
                for name, content in sorted(_members(sample, pictures, embeddings)):
                    member = tarfile.TarInfo(f"{sample['id']}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps a record of every member otherwise


def write_parquet(path: Path, batches: Iterable[pa.Table], schema: pa.Schema, embeddings: EmbeddingFormats) -> None:
    """Write samples as a Parquet file, with metadata that makes `datasets` decode the pictures."""
    metadata = {key.encode(): value.encode() for key, value in hf_metadata(schema).items()}
    if embeddings:
        metadata[METADATA_KEY] = json.dumps({"embeddings": embeddings}, sort_keys=True).encode()
    schema = schema.with_metadata(metadata)
    strings = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=strings, write_statistics=["id"]) as writer:
        for batch in batches:
            writer.write_table(batch.replace_schema_metadata(metadata), row_group_size=BINARY_ROW_GROUP)


def _samples(batch: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries. A float32 becomes the shortest decimal number that identifies it, such as 0.1."""
    columns = {}
    for field in batch.schema:
        values = batch[field.name]
        if pa.types.is_float32(field.type):
            columns[field.name] = [text and float(text) for text in values.cast(pa.string()).to_pylist()]
        else:
            columns[field.name] = values.to_pylist()
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _members(
    sample: dict[str, Any], pictures: Sequence[str], embeddings: EmbeddingFormats
) -> Iterator[tuple[str, bytes]]:
    """Yield the extension and the content of each member of a sample."""
    for column in pictures:
        if sample[column] is not None or column == "image":
            yield ".".join([*column.split("_")[1:], _picture_format(sample, column)]), sample[column]["bytes"]
    yield "txt", (sample["caption"] or "").encode()
    own_members = {*pictures, *(f"{name}_embedding" for name in embeddings)}
    yield "json", as_json({name: value for name, value in sample.items() if name not in own_members}).encode()
    for name, embedding in embeddings.items():
        vectors = sample[f"{name}_embedding"]
        if vectors is not None:
            yield f"{name}.npy", _as_npy(vectors, sample[f"{name}_length"], embedding)


def _picture_format(sample: dict[str, Any], column: str) -> str:
    picture = (sample[column] or {}).get("bytes") or b""
    for magic, extension in MAGIC_BYTES.items():
        if picture.startswith(magic):
            return extension
    raise SampleDamaged(
        f"the picture of sample {sample['id']} is not a JPEG, PNG or WebP file. Build again, then export"
    )


def _as_npy(content: bytes, length: int, embedding: Mapping[str, Any]) -> bytes:
    """Encode an embedding as a .npy file. NumPy has no bfloat16, so such values are stored exactly as float32."""
    if embedding["dtype"] == "bfloat16":
        values = (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(content, "<f2")
    file = io.BytesIO()
    np.save(file, values.reshape(length, -1 if length else embedding.get("dim") or 0), allow_pickle=False)
    return file.getvalue()
