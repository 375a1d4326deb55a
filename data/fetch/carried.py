"""Reads pictures that a source stores together with its pairs, in a tar, a Parquet file or a folder.

Pictures are read by byte range, and nothing is requested from the web. A pair's `extra` gives the location of its
picture. If a picture can't be read, the result has an error text. If an archive has changed since it was ingested, the
tar member's header or the row group's size shows it.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data.fetch.fetcher import FetchResult
from data.lake import storage
from data.sources.formats import FORMAT_ERRORS, STORE_ERRORS
from data.sources.parquet import open_parquet

GROUP_BYTES = 64 << 20  # bytes that are read together, in as many simultaneous requests as the store's client makes
MAX_GAP = 256 << 10  # the most bytes between two pictures in a tar for which one read is faster than two
BATCH_ROWS = 32  # rows of a Parquet file that are decoded together
HEADER = tarfile.BLOCKSIZE  # bytes before a member's content

Location = dict[str, Any]
Numbered = tuple[int, Location]  # a location and its index in the caller's list


@dataclass
class Span:
    """A byte range of one file, and the pictures in it."""

    url: str
    start: int
    end: int
    locations: list[Numbered]


def read_carried(locations: Sequence[Location], max_bytes: int) -> Iterator[tuple[int, FetchResult]]:
    """Read the pictures at some locations. Results are yielded in any order, each with the index of its location.

    Memory is bounded: about `GROUP_BYTES` are read together. Reading is fastest if the locations are sorted by file and
    offset.

    Args:
        locations: the location of each picture as the source recorded it: `tar`, `parquet` or `file`, and the position.
        max_bytes: the most bytes of a picture. A larger picture fails with `too_large`.
    """
    numbered = list(enumerate(locations))
    yield from _read_parquet([item for item in numbered if "parquet" in item[1]], max_bytes)
    small = []
    for index, location in numbered:
        if location.get("size", 0) > max_bytes and "tar" in location:
            error = f"{location['size']:,} bytes, more than {max_bytes:,}"
            yield index, _failed(location["tar"], "too_large", error)
        elif "parquet" not in location:
            small.append((index, location))
    for spans in _groups(_spans(small, max_bytes)):
        yield from _read_spans(spans, max_bytes)


def _spans(locations: Sequence[Numbered], max_bytes: int) -> Iterator[Span]:
    """Yield the ranges to read. Pictures that are close to each other in a tar share one range."""
    span: Span | None = None
    for index, location in sorted(locations, key=_tar_order):
        if "file" in location:
            yield Span(location["file"], 0, max_bytes + 1, [(index, location)])
            continue
        start, end = location["offset"] - HEADER, location["offset"] + location["size"]
        if span and span.url == location["tar"] and start - span.end <= MAX_GAP and end - span.start <= GROUP_BYTES:
            span.end = max(span.end, end)
            span.locations.append((index, location))
            continue
        if span:
            yield span
        span = Span(location["tar"], start, end, [(index, location)])
    if span:
        yield span


def _tar_order(item: Numbered) -> tuple[str, int]:
    _, location = item
    return location.get("tar", ""), location.get("offset", 0)


def _groups(spans: Iterator[Span]) -> Iterator[list[Span]]:
    """Yield groups of spans to read together, with at most `GROUP_BYTES` bytes per group."""
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and size + span.end - span.start > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(span)
        size += span.end - span.start
    if group:
        yield group


def _read_spans(spans: list[Span], max_bytes: int) -> Iterator[tuple[int, FetchResult]]:
    for _, group in groupby(spans, key=lambda span: storage.split_url(span.url)[0].protocol):
        same_store = list(group)
        filesystem = storage.split_url(same_store[0].url)[0]
        paths = [storage.split_url(span.url)[1] for span in same_store]
        starts, ends = [span.start for span in same_store], [span.end for span in same_store]
        bodies = filesystem.cat_ranges(paths, starts, ends, on_error="return")
        for span, body in zip(same_store, bodies, strict=True):
            for index, location in span.locations:
                yield index, _cut_picture(span, location, body, max_bytes)


def _cut_picture(span: Span, location: Location, body: bytes | Exception, max_bytes: int) -> FetchResult:
    """Cut one picture out of the bytes that were read from a span."""
    if isinstance(body, Exception):
        return _unreadable(span.url, body)
    if "file" in location:
        if len(body) > max_bytes:
            return _failed(span.url, "too_large", f"more than {max_bytes:,} bytes")
        return FetchResult(span.url, "ok", None, False, body=body, final_url=span.url)
    start = location["offset"] - span.start
    picture = body[start : start + location["size"]]
    try:
        header = tarfile.TarInfo.frombuf(body[start - HEADER : start], tarfile.ENCODING, "surrogateescape")
        unchanged = (header.chksum, header.size) == (location["check"], location["size"])
    except tarfile.HeaderError:
        unchanged = False
    if not unchanged and start <= len(body):
        return _failed(span.url, "not_found", "the tar has changed: another member is where the picture was")
    if len(picture) < location["size"]:
        return _failed(span.url, "truncated", f"the tar ends after {len(picture):,} of {location['size']:,} bytes")
    return FetchResult(span.url, "ok", None, False, body=picture, final_url=span.url)


def _read_parquet(locations: Sequence[Numbered], max_bytes: int) -> Iterator[tuple[int, FetchResult]]:
    """Read pictures from Parquet files. Each row group is read once, a few rows at a time."""
    ordered = sorted(locations, key=_parquet_order)
    for url, group in groupby(ordered, key=lambda item: str(item[1]["parquet"])):
        remaining = list(group)
        try:
            with open_parquet(url) as file:
                for row_group, members in groupby(list(remaining), key=lambda item: int(item[1]["row_group"])):
                    wanted = list(members)
                    if _has_changed(file.metadata, row_group, wanted[0][1]):
                        for index, _ in wanted:
                            remaining.pop(0)
                            yield index, _failed(url, "not_found", "the file has changed since its pairs were read")
                        continue
                    for index, body in _row_group_pictures(file, row_group, wanted):
                        remaining.pop(0)
                        yield index, _picture_result(url, body, max_bytes)
        except FORMAT_ERRORS as error:
            for index, _ in remaining:
                yield index, _failed(url, "truncated", f"the file can't be read: {error}")
        except STORE_ERRORS as error:
            for index, _ in remaining:
                yield index, _unreadable(url, error)


def _parquet_order(item: Numbered) -> tuple[str, int, int]:
    _, location = item
    return location["parquet"], location["row_group"], location["row"]


def _has_changed(metadata: Any, row_group: int, location: Location) -> bool:
    """Return whether the file lacks this row group now, or its size is not the recorded one."""
    return row_group >= metadata.num_row_groups or metadata.row_group(row_group).total_byte_size != location["size"]


def _row_group_pictures(file: Any, row_group: int, wanted: list[Numbered]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the picture bytes in the wanted rows of a row group, each with the index of its location."""
    index_of_row = {location["row"]: index for index, location in wanted}
    column, row = wanted[0][1]["column"], 0
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[row_group], columns=[column], use_threads=False):
        for position in range(len(batch)):
            if row in index_of_row:
                picture = batch.column(0)[position].as_py()
                yield index_of_row[row], picture["bytes"] if isinstance(picture, dict) else picture
            row += 1


def _picture_result(url: str, body: bytes | None, max_bytes: int) -> FetchResult:
    if body is None:
        return _failed(url, "not_found", "the row holds no picture")
    if len(body) > max_bytes:
        return _failed(url, "too_large", f"{len(body):,} bytes, more than {max_bytes:,}")
    return FetchResult(url, "ok", None, False, body=body, final_url=url)


def _unreadable(url: str, error: Exception) -> FetchResult:
    if isinstance(error, FileNotFoundError):
        return _failed(url, "not_found", f"{url} no longer exists")
    return FetchResult(url, "connection", f"{url} can't be read: {error}"[:300], True, final_url=url)


def _failed(url: str, status: str, error: str) -> FetchResult:
    return FetchResult(url, status, error, False, final_url=url)
