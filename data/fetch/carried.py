"""Pictures that came along with their pairs: read by range from the tar, the Parquet file or the folder they lie in.

Nothing is fetched and nobody is asked: a picture is where its pair's `extra` says, or there is a reason in words why
not. Whether an archive is still the one that was indexed is seen at the member's own header, and at a row group's size.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data.fetch.fetcher import Fetched
from data.lake import storage
from data.sources.formats import FORMAT_ERRORS, STORE_ERRORS
from data.sources.parquet import open_parquet

AT_ONCE = 64 << 20  # bytes that are read in one go, in as many requests at a time as the store's client makes
GAP = 256 << 10  # bytes between two pictures of a tar that are rather read than asked around
ROWS = 32  # of a Parquet file, decoded at once
HEADER = tarfile.BLOCKSIZE  # it stands before a member's bytes

Place = dict[str, Any]


@dataclass
class Span:
    """A stretch of a file, and the pictures in it."""

    url: str
    start: int
    end: int
    places: list[tuple[int, Place]]


def read_carried(places: Sequence[Place], most: int) -> Iterator[tuple[int, Fetched]]:
    """The pictures at some places with their numbers among them; best asked in the order in which they lie."""
    numbered = list(enumerate(places))
    yield from _from_parquet([(n, place) for n, place in numbered if "parquet" in place], most)
    small = []
    for n, place in numbered:
        if place.get("size", 0) > most and "tar" in place:
            yield n, _failed(place["tar"], "too_large", f"{place['size']:,} bytes, more than {most:,}")
        elif "parquet" not in place:
            small.append((n, place))
    for spans in _groups(_spans(small, most)):
        yield from _read(spans, most)


def _spans(places: Sequence[tuple[int, Place]], most: int) -> Iterator[Span]:
    """The stretches to read: neighbours in one tar together."""
    span: Span | None = None
    for n, place in sorted(places, key=lambda one: (one[1].get("tar", ""), one[1].get("offset", 0))):
        if "file" in place:
            yield Span(place["file"], 0, most + 1, [(n, place)])
            continue
        start, end = place["offset"] - HEADER, place["offset"] + place["size"]
        if span and span.url == place["tar"] and start - span.end <= GAP and end - span.start <= AT_ONCE:
            span.end = max(span.end, end)
            span.places.append((n, place))
            continue
        if span:
            yield span
        span = Span(place["tar"], start, end, [(n, place)])
    if span:
        yield span


def _groups(spans: Iterator[Span]) -> Iterator[list[Span]]:
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and size + span.end - span.start > AT_ONCE:
            yield group
            group, size = [], 0
        group.append(span)
        size += span.end - span.start
    if group:
        yield group


def _read(spans: list[Span], most: int) -> Iterator[tuple[int, Fetched]]:
    for _, same in groupby(spans, key=lambda span: storage.split_url(span.url)[0].protocol):
        some = list(same)
        fs = storage.split_url(some[0].url)[0]
        paths = [storage.split_url(span.url)[1] for span in some]
        starts, ends = [span.start for span in some], [span.end for span in some]
        for span, body in zip(some, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
            for n, place in span.places:
                yield n, _cut(span, place, body, most)


def _cut(span: Span, place: Place, body: bytes | Exception, most: int) -> Fetched:
    """One picture out of what was read of a file."""
    if isinstance(body, Exception):
        return _absent(span.url, body)
    if "file" in place:
        if len(body) > most:
            return _failed(span.url, "too_large", f"more than {most:,} bytes")
        return Fetched(span.url, "ok", None, False, body=body, final_url=span.url)
    at = place["offset"] - span.start
    picture = body[at : at + place["size"]]
    try:
        header = tarfile.TarInfo.frombuf(body[at - HEADER : at], tarfile.ENCODING, "surrogateescape")
        same = (header.chksum, header.size) == (place["check"], place["size"])
    except tarfile.HeaderError:
        same = False
    if not same and at <= len(body):
        return _failed(span.url, "not_found", "the tar was changed: another member lies where the picture was")
    if len(picture) < place["size"]:
        return _failed(span.url, "truncated", f"the tar ends after {len(picture):,} of {place['size']:,} bytes")
    return Fetched(span.url, "ok", None, False, body=picture, final_url=span.url)


def _from_parquet(places: Sequence[tuple[int, Place]], most: int) -> Iterator[tuple[int, Fetched]]:
    """Pictures out of row groups, each of which is read once, a few rows at a time."""
    ordered = sorted(places, key=lambda one: (one[1]["parquet"], one[1]["row_group"], one[1]["row"]))
    for url, same in groupby(ordered, key=lambda one: str(one[1]["parquet"])):
        left = list(same)
        try:
            with open_parquet(url) as file:
                for group, inside in groupby(list(left), key=lambda one: int(one[1]["row_group"])):
                    wanted = list(inside)
                    changed = _changed(file.metadata, group, wanted[0][1])
                    for n, body in [] if changed else _pictures(file, group, wanted):
                        left.pop(0)
                        yield n, _picture(url, body, most)
                    for n, _ in wanted if changed else []:
                        left.pop(0)
                        yield n, _failed(url, "not_found", "the file was changed since its pairs were read")
        except FORMAT_ERRORS as error:
            for n, _ in left:
                yield n, _failed(url, "truncated", f"the file can't be read: {error}")
        except STORE_ERRORS as error:
            for n, _ in left:
                yield n, _absent(url, error)


def _changed(metadata: Any, group: int, place: Place) -> bool:
    return group >= metadata.num_row_groups or metadata.row_group(group).total_byte_size != place["size"]


def _pictures(file: Any, group: int, wanted: list[tuple[int, Place]]) -> Iterator[tuple[int, bytes | None]]:
    rows = {place["row"]: n for n, place in wanted}
    column, row = wanted[0][1]["column"], 0
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False):
        for value in range(len(batch)):
            if row in rows:
                picture = batch.column(0)[value].as_py()
                yield rows[row], picture["bytes"] if isinstance(picture, dict) else picture
            row += 1


def _picture(url: str, body: bytes | None, most: int) -> Fetched:
    if body is None:
        return _failed(url, "not_found", "the row holds no picture")
    if len(body) > most:
        return _failed(url, "too_large", f"{len(body):,} bytes, more than {most:,}")
    return Fetched(url, "ok", None, False, body=body, final_url=url)


def _absent(url: str, error: Exception) -> Fetched:
    if isinstance(error, FileNotFoundError):
        return _failed(url, "not_found", f"{url} is gone")
    return Fetched(url, "connection", f"{url} can't be read: {error}"[:300], True, final_url=url)


def _failed(url: str, status: str, error: str) -> Fetched:
    return Fetched(url, status, error, False, final_url=url)
