"""Describes a dataset's columns as Hugging Face features, in the metadata of Parquet files and in a dataset card."""

import json
from typing import Any

import pyarrow as pa

HF_DTYPES = {"float": "float32", "double": "float64", "halffloat": "float16"}  # types that Arrow names differently
METADATA_KEY = b"imagen"  # key of our own entry in a Parquet file's schema metadata, next to Hugging Face's entry
SIZE_CATEGORIES = (
    "n<1K",
    "1K<n<10K",
    "10K<n<100K",
    "100K<n<1M",
    "1M<n<10M",
    "10M<n<100M",
    "100M<n<1B",
    "1B<n<10B",
    "n>10B",
)


def picture_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that contain pictures: `image` and its smaller copies."""
    return [field.name for field in schema if pa.types.is_struct(field.type)]


def hf_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return Parquet schema metadata that makes the `datasets` library decode pictures instead of returning structs."""
    return {"huggingface": json.dumps({"info": {"features": hf_features(schema)}})}


def hf_features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the feature of each column, in the form of `datasets.Features.to_dict()`."""
    return {field.name: _feature(field) for field in schema}


def card_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the features in the shorter form that is used in a dataset card's front matter."""
    return [{"name": name, **_card_feature(feature)} for name, feature in hf_features(schema).items()]


def size_category(rows: int) -> str:
    """Return the Hub's size category for a number of rows.

    Example:
        >>> size_category(2_500)
        '1K<n<10K'
    """
    return SIZE_CATEGORIES[min(len(SIZE_CATEGORIES) - 1, max(0, len(str(rows)) - 3))]


def _feature(field: pa.Field) -> dict[str, Any]:
    if pa.types.is_struct(field.type):
        return {"_type": "Image"}
    if pa.types.is_list(field.type):
        return {"feature": _feature(field.type.value_field), "_type": "List"}
    return {"dtype": HF_DTYPES.get(str(field.type), str(field.type)), "_type": "Value"}


def _card_feature(feature: dict[str, Any]) -> dict[str, Any]:
    if feature["_type"] == "Image":
        return {"dtype": "image"}
    if feature["_type"] == "List":
        return {"list": _card_feature(feature["feature"])["dtype"]}
    return {"dtype": feature["dtype"]}
