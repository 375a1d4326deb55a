"""A dataset's columns as Hugging Face describes them: in the note of a Parquet file, in the front matter of a card."""

import json
from typing import Any

import pyarrow as pa

KINDS = {"float": "float32", "double": "float64", "halffloat": "float16"}  # Arrow's words where Hugging Face has others
NOTE = b"imagen"  # the key of our own note in a file's schema, beside that of Hugging Face
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "n>10B")


def pictures(schema: pa.Schema) -> list[str]:
    """The columns that hold pictures: `image`, and its smaller sizes."""
    return [field.name for field in schema if pa.types.is_struct(field.type)]


def note_of(schema: pa.Schema) -> dict[str, str]:
    """The note by which `datasets` gives back pictures, not structs."""
    return {"huggingface": json.dumps({"info": {"features": features(schema)}})}


def features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    return {field.name: _feature(field) for field in schema}


def listed(schema: pa.Schema) -> list[dict[str, Any]]:
    """As front matter has them, which is shorter than the note in a file."""
    return [{"name": name, **_short(feature)} for name, feature in features(schema).items()]


def size_category(rows: int) -> str:
    """As the Hub sorts datasets by size."""
    return SIZES[min(len(SIZES) - 1, max(0, len(str(rows)) - 3))]


def _feature(field: pa.Field) -> dict[str, Any]:
    if pa.types.is_struct(field.type):
        return {"_type": "Image"}
    if pa.types.is_list(field.type):
        return {"feature": _feature(field.type.value_field), "_type": "List"}
    return {"dtype": KINDS.get(str(field.type), str(field.type)), "_type": "Value"}


def _short(feature: dict[str, Any]) -> dict[str, Any]:
    if feature["_type"] == "Image":
        return {"dtype": "image"}
    if feature["_type"] == "List":
        return {"list": _short(feature["feature"])["dtype"]}
    return {"dtype": feature["dtype"]}
