"""Webdataset tars: members that share a name up to its first dot are one pair, and the picture comes along.

Only headers are read, and the small members that hold the text; a picture's place is noted and its bytes are left.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from data.lake import storage
from data.sources.rows import Layout, RowCollector, Rows

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TEXTS = ("txt", "json")
MAX_TEXT_BYTES = 1 << 20  # bytes of a caption or of a JSON member
READ_AHEAD = 1 << 20  # of a tar on a store: a header, the text members behind it, and a small picture or two


@dataclass
class Sample:
    """What a tar holds of one pair."""

    key: str
    picture: tarfile.TarInfo | None = None
    texts: dict[str, bytes] = field(default_factory=dict)
    broken: str | None = None


def read_tar(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    """The samples of a tar; the members of one may lie apart by as many samples as a batch has."""
    sieve, samples, numbers = RowCollector(layout), dict[str, Sample](), count(1)
    try:
        with storage.open_to_read(url, READ_AHEAD) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _members(tar):
                key, kind = _split(member.name)
                if key not in samples and len(samples) > batch:
                    _sort(sieve, list(samples.values())[:-1], url, numbers)
                    yield sieve.take()
                    samples = dict([samples.popitem()])
                _put(samples.setdefault(key, Sample(key)), kind, member, tar)
    except Exception:
        _sort(sieve, samples.values(), url, numbers)
        if len(sieve):
            yield sieve.take()
        raise
    _sort(sieve, samples.values(), url, numbers)
    if len(sieve):
        yield sieve.take()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that belong to a sample."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        if member.isfile() and all(_split(member.name)):
            yield member


def _split(name: str) -> tuple[str, str]:
    """A member's name as key and kind: `dir/0001.seg.png` is the `seg.png` of `dir/0001`."""
    folder, slash, file = name.rpartition("/")
    start, _, kind = file.partition(".")
    return (folder + slash + start if start else ""), kind.lower()


def _sort(sieve: RowCollector, samples: Iterable[Sample], url: str, numbers: Iterator[int]) -> None:
    for sample in samples:
        _add(sieve, next(numbers), url, sample)


def _put(sample: Sample, kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if kind in PICTURES:
        sample.picture = sample.picture or member
    elif kind in TEXTS:
        if member.size > MAX_TEXT_BYTES:
            sample.broken = f"{member.name} has {member.size:,} bytes, too many for a text"
            return
        body = tar.extractfile(member)
        assert body is not None  # it is a file
        sample.texts[kind] = body.read()
        if len(sample.texts[kind]) < member.size:
            raise tarfile.ReadError("unexpected end of data")


def _add(sieve: RowCollector, row: int, url: str, sample: Sample) -> None:
    layout, picture = sieve.layout, sample.picture
    try:
        fields = _fields(sample, layout)
    except ValueError as error:
        sieve.reject(row, f"{sample.key}: {sample.broken or error}", repr(sample.texts))
        return
    at: dict[str, Any] | None = None
    if picture is not None:
        at = {"tar": url, "offset": picture.offset_data, "size": picture.size, "check": picture.chksum}
        fields[layout.url] = fields.get(layout.url) or f"{url}#{picture.name}"
    elif not fields.get(layout.url):
        sieve.reject(row, f"{sample.key}: neither a picture nor a URL", repr(sample.texts))
        return
    sieve.add(row, fields, at)


def _fields(sample: Sample, layout: Layout) -> dict[str, Any]:
    """The JSON member with the text member as its caption; the digest in it is of what was downloaded, not kept."""
    if sample.broken:
        raise ValueError(sample.broken)
    said = json.loads(sample.texts["json"], parse_constant=lambda _: None) if "json" in sample.texts else {}
    if not isinstance(said, dict):
        raise ValueError("its JSON is no object")
    if "txt" in sample.texts:
        said[layout.caption] = sample.texts["txt"].decode("utf-8-sig").strip()
    return said
