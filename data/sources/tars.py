"""Reads webdataset tars. Members whose names are equal up to the first dot form one pair with its picture.

Only headers and the small text members are read. Pictures are not read, but their locations in the tar are recorded.
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
READ_AHEAD = 1 << 20  # bytes per request to a store: a header, the text members after it, and a small picture or two


@dataclass
class Sample:
    """The members of a tar that belong to one pair.

    Attributes:
        key: The common part of their names, with the folder.
        picture: The first picture.
        texts: The contents of the text members, keyed by kind: `txt` or `json`.
        broken: The reason why the sample can't be used; None if it can be.
    """

    key: str
    picture: tarfile.TarInfo | None = None
    texts: dict[str, bytes] = field(default_factory=dict)
    broken: str | None = None


def read_tar(url: str, layout: Layout, batch: int) -> Iterator[Rows]:
    """Yield the rows of a tar, about `batch` at a time.

    Between the members of one sample there may be other samples, but at most as many as a batch has rows. If the tar is
    broken, the samples before the broken part are yielded, and then the error is raised.
    """
    collector, samples, numbers = RowCollector(layout), dict[str, Sample](), count(1)
    try:
        with storage.open_to_read(url, READ_AHEAD) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _members(tar):
                key, kind = _split_name(member.name)
                if key not in samples and len(samples) > batch:
                    _collect(collector, list(samples.values())[:-1], url, numbers)
                    yield collector.take()
                    samples = dict([samples.popitem()])  # the newest, whose members may follow
                _add_member(samples.setdefault(key, Sample(key)), kind, member, tar)
    except Exception:
        _collect(collector, samples.values(), url, numbers)
        if len(collector):
            yield collector.take()
        raise
    _collect(collector, samples.values(), url, numbers)
    if len(collector):
        yield collector.take()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar that belong to a sample."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else the tar keeps all headers in memory
        if member.isfile() and all(_split_name(member.name)):
            yield member


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and kind, such as `dir/0001.seg.png` into `dir/0001` and `seg.png`."""
    folder, slash, file = name.rpartition("/")
    start, _, kind = file.partition(".")
    return (folder + slash + start if start else ""), kind.lower()


def _collect(collector: RowCollector, samples: Iterable[Sample], url: str, numbers: Iterator[int]) -> None:
    for sample in samples:
        _add_sample(collector, next(numbers), url, sample)


def _add_member(sample: Sample, kind: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if kind in PICTURES:
        sample.picture = sample.picture or member
    elif kind in TEXTS:
        if member.size > MAX_TEXT_BYTES:
            sample.broken = f"{member.name} has {member.size:,} bytes, too many for a text"
            return
        body = tar.extractfile(member)
        assert body is not None  # the member is a file
        sample.texts[kind] = body.read()
        if len(sample.texts[kind]) < member.size:
            raise tarfile.ReadError("unexpected end of data")


def _add_sample(collector: RowCollector, row: int, url: str, sample: Sample) -> None:
    layout, picture = collector.layout, sample.picture
    try:
        fields = _fields(sample, layout)
    except ValueError as error:
        collector.reject(row, f"{sample.key}: {sample.broken or error}", repr(sample.texts))
        return
    location: dict[str, Any] | None = None
    if picture is not None:
        location = {"tar": url, "offset": picture.offset_data, "size": picture.size, "check": picture.chksum}
        fields[layout.url] = fields.get(layout.url) or f"{url}#{picture.name}"
    elif not fields.get(layout.url):
        collector.reject(row, f"{sample.key}: neither a picture nor a URL", repr(sample.texts))
        return
    collector.add(row, fields, location)


def _fields(sample: Sample, layout: Layout) -> dict[str, Any]:
    """Return the columns of a sample: the fields of its JSON member, and its text member as the caption."""
    if sample.broken:
        raise ValueError(sample.broken)
    fields = json.loads(sample.texts["json"], parse_constant=lambda _: None) if "json" in sample.texts else {}
    if not isinstance(fields, dict):
        raise ValueError("its JSON is no object")
    if "txt" in sample.texts:
        fields[layout.caption] = sample.texts["txt"].decode("utf-8-sig").strip()
    return fields
