"""Computes the id of a pair and the bucket of an id, and defines the schemas of the tables that a build fills."""

import hashlib

import pyarrow as pa

PAIRS = pa.schema(
    {
        "id": pa.string(),
        "url": pa.string(),
        "caption": pa.string(),
        "source": pa.string(),
        "first_seen": pa.timestamp("us", tz="UTC"),
        "extra": pa.string(),  # JSON object with other columns of the source; null if the recipe asks for none
        "sha256": pa.string(),  # hash of the bytes at the URL, according to the source
        "replaces": pa.string(),  # the id of the pair that had the URL's earlier picture
    }
)
FILES = pa.schema(
    {
        "id": pa.string(),
        "path": pa.string(),
        "token": pa.string(),  # changes when the file changes
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
        "row": pa.int64(),  # from 1; the line number in text files; null if the whole file is rejected
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
        "retry_after": pa.timestamp("us", tz="UTC"),  # null: never retried
        "http_status": pa.int32(),
        "final_url": pa.string(),
        "etag": pa.string(),
        "last_modified": pa.string(),
        "replaced_by": pa.string(),  # the id of the pair with the URL's new picture
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
        "sha256": pa.string(),  # hash of the fetched bytes
    }
)
VERDICTS = pa.schema({"id": pa.string(), "kept": pa.bool_(), "reasons": pa.list_(pa.string())})
EMBEDDINGS = pa.schema(
    {
        "id": pa.string(),  # id of the text, not of a pair
        "embedding": pa.binary(),  # length x dim numbers of two bytes, little-endian; null if there is an error
        "length": pa.int32(),
        "truncated": pa.bool_(),  # the text was longer than the encoder reads
        "error": pa.string(),
    }
)


def pair_id(url: str, caption: str) -> str:
    """Return the id of a pair: the first 16 bytes, in hex, of the SHA-256 of URL, zero byte and caption."""
    return hashlib.sha256(b"\0".join((url.encode(), caption.encode()))).hexdigest()[:32]


def changed_pair_id(url: str, caption: str, sha256: str) -> str:
    """Return the id of the new pair that replaces a pair when the picture at its URL has changed.

    It is a hash like that of `pair_id`, but the new picture's SHA-256 is hashed too.
    """
    return hashlib.sha256(b"\0".join((url.encode(), caption.encode(), sha256.encode()))).hexdigest()[:32]


def text_id(caption: str) -> str:
    """Return the id of a text: the first 16 bytes of its SHA-256, in hex. Pairs with equal captions share it."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def bucket_of(id: str, buckets: int) -> int:
    """Return the bucket of an id, which is given by its leading bits. `buckets` is a power of two up to 65,536."""
    return int(id[:4], 16) * buckets >> 16
