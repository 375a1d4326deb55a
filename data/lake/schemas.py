"""What a pair is: its id, its bucket, and the schema of every table of a lake."""

import hashlib

import pyarrow as pa

PAIRS = pa.schema(
    {
        "id": pa.string(),
        "url": pa.string(),
        "caption": pa.string(),
        "source": pa.string(),
        "first_seen": pa.timestamp("us", tz="UTC"),
        "extra": pa.string(),  # a JSON object of the source's other columns; null if none were asked for
        "sha256": pa.string(),  # of the bytes at the URL, as the source gives it
        "replaces": pa.string(),  # the id of a pair whose picture changed at its URL
    }
)
FILES = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "token": pa.string(),  # changes with the file
        "rows": pa.int64(),
        "new": pa.int64(),
        "rejected": pa.int64(),
        "at": pa.timestamp("us", tz="UTC"),
    }
)
REJECTS = pa.schema(
    {
        "id": pa.string(),
        "file": pa.string(),
        "row": pa.int64(),  # from 1, in text files the line; null: the whole file
        "reason": pa.string(),
        "content": pa.string(),
    }
)
FETCHES = pa.schema(
    {
        "id": pa.string(),
        "attempt": pa.int32(),
        "at": pa.timestamp("us", tz="UTC"),
        "status": pa.string(),
        "error": pa.string(),
        "transient": pa.bool_(),
        "retry_after": pa.timestamp("us", tz="UTC"),  # null: never again
        "http_status": pa.int32(),
        "final_url": pa.string(),
        "etag": pa.string(),
        "last_modified": pa.string(),
        "replaced_by": pa.string(),  # the pair that other bytes at the URL became
    }
)
IMAGES = pa.schema(
    {
        "id": pa.string(),
        "image": pa.binary(),
        "format": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "original_width": pa.int32(),
        "original_height": pa.int32(),
        "original_bytes": pa.int64(),
        "sha256": pa.string(),  # of the bytes that the origin sent
    }
)
VERDICTS = pa.schema({"id": pa.string(), "kept": pa.bool_(), "reasons": pa.list_(pa.string())})
EMBEDDINGS = pa.schema(
    {
        "id": pa.string(),  # of the text, not of a pair
        "embedding": pa.binary(),  # length x dim numbers of two bytes, little-endian; null with an error
        "length": pa.int32(),
        "truncated": pa.bool_(),  # the encoder read only the beginning
        "error": pa.string(),
    }
)


def pair_id(url: str, caption: str) -> str:
    """The hex of the first 16 bytes of SHA-256 over URL, a zero byte, caption."""
    return hashlib.sha256(b"\0".join((url.encode(), caption.encode()))).hexdigest()[:32]


def changed_pair_id(url: str, caption: str, sha256: str) -> str:
    """The id of a pair whose picture changed: that of URL, caption and the new bytes' hash in hex, zeros between."""
    return hashlib.sha256(b"\0".join((url.encode(), caption.encode(), sha256.encode()))).hexdigest()[:32]


def text_id(caption: str) -> str:
    """The hex of the first 16 bytes of SHA-256 over the caption, however many pairs carry it."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def bucket_of(id: str, buckets: int) -> int:
    """The leading bits of an id, for a number of buckets that is a power of two up to 65,536."""
    return int(id[:4], 16) * buckets >> 16
