"""The rows of a source's file, sorted: those that say a URL and a caption, and those set aside with the reason."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import SourceError
from data.lake.sql import query

BATCH = 65_536  # rows held at once while a file is read
REJECT_CHARACTERS = 2_000  # characters that are kept of a row that can't be read
LOCATION = "_at"  # the key in `extra` that says where a picture lies that came along with its pair
ROW_SCHEMA = pa.schema(
    {"row": pa.int64(), "url": pa.string(), "caption": pa.string(), "extra": pa.string(), "sha256": pa.string()}
)
STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
TYPES = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a source hold what, and how its text files are written."""

    url: str = "url"
    caption: str = "caption"
    sha256: str | None = None
    image: str = "image"
    extra: tuple[str, ...] | Literal["all"] = ()
    names: tuple[str, ...] | None = None  # of the columns of a CSV or TSV without a header
    quoted: bool = True  # whether quotes in a CSV or TSV hold a field together
    lenient: bool = False  # whether sha256 and extra columns may be missing

    def extra_of(self, columns: Sequence[str]) -> list[str]:
        """The extra columns among those that a file has."""
        taken = {self.url, self.caption, self.sha256, self.image, LOCATION}
        wanted = columns if self.extra == "all" else [name for name in self.extra if name in columns]
        return [name for name in wanted if name not in taken]


class Reject(NamedTuple):
    """A row that can't be read; its number counts from 1, in text files by lines; None stands for the whole file."""

    row: int | None
    reason: str
    content: str


class Rows(NamedTuple):
    """A stretch of a file."""

    valid: pa.Table
    rejects: list[Reject]


@dataclass
class RowCollector:
    """Sorts rows that come one by one, as mappings."""

    layout: Layout
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    carried: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # the extra columns of rows with such keys

    def __len__(self) -> int:
        return len(self.rows) + len(self.rejects)

    def add(self, row: int, fields: Mapping[str, Any], at: Mapping[str, Any] | None = None) -> None:
        """A row, and where its picture lies if that came along."""
        try:
            self._add(row, fields, at)
        except RecursionError:
            self.reject(row, "the row is nested too deeply", "")

    def _add(self, row: int, fields: Mapping[str, Any], at: Mapping[str, Any] | None) -> None:
        layout = self.layout
        url, caption = fields.get(layout.url), fields.get(layout.caption)
        reason = required_text_error("URL", url) or text_error("caption", caption)
        if reason:
            self.reject(row, reason, as_json(fields))
            return
        names = tuple(fields)
        if names not in self.carried:
            self.carried = {names: layout.extra_of(names)}  # the next row is most often like this one
        extra = {name: fields[name] for name in self.carried[names] if fields[name] not in (None, "")}
        if at is not None:
            extra[LOCATION] = at
        sha256 = fields.get(layout.sha256) if layout.sha256 and at is None else None  # of the bytes at the URL only
        self.rows.append((row, url, caption or "", as_json(extra) if extra else None, parse_sha256(sha256)))

    def reject(self, row: int, reason: str, content: str) -> None:
        self.rejects.append(Reject(row, reason, truncate(content)))

    def take(self) -> Rows:
        """What was sorted since the last time."""
        columns = zip(*self.rows, strict=True) if self.rows else [[] for _ in ROW_SCHEMA]
        arrays = [pa.array(list(column), kind.type) for column, kind in zip(columns, ROW_SCHEMA, strict=True)]
        taken = Rows(pa.Table.from_arrays(arrays, schema=ROW_SCHEMA), self.rejects)
        self.rows, self.rejects = [], []
        return taken


def parse_table(table: pa.Table, layout: Layout, first: int, at: pa.Table | None = None) -> Rows:
    """Rows that come as a table, from row number `first` on; `at` says of each where its picture lies."""
    undecodable: dict[int, str] = {}
    texts = {}
    for name, column in (("URL", layout.url), ("caption", layout.caption)):
        texts[name], wrong = decode_column(table[column])
        undecodable |= dict.fromkeys(wrong, f"the {name} is not UTF-8 text")
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(texts["URL"]), ""), True)
    reasons = dict.fromkeys(pc.indices_nonzero(blank).to_pylist(), "no URL") | undecodable
    rows = pa.array(range(first, first + table.num_rows), pa.int64())
    digests = (
        [parse_sha256(value) for value in decode_column(table[layout.sha256])[0].to_pylist()] if layout.sha256 else None
    )
    read = pa.Table.from_arrays(
        [
            rows,
            texts["URL"],
            pc.fill_null(texts["caption"], ""),
            encode_extras(table.select(layout.extra_of(table.column_names)), at),
            pa.nulls(table.num_rows, pa.string()) if digests is None else pa.array(digests, pa.string()),
        ],
        schema=ROW_SCHEMA,
    )
    if not reasons:
        return Rows(read, [])
    rejects = []
    for place, reason in sorted(reasons.items()):
        content = {name: _shown(table[name].slice(place, 1)) for name in (layout.url, layout.caption)}
        rejects.append(Reject(first + place, reason, truncate(json.dumps(content, ensure_ascii=False))))
    kept = [place for place in range(table.num_rows) if place not in reasons]
    return Rows(read.take(pa.array(kept, pa.int64())), rejects)


def decode_column(column: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
    """A column as text, and the places of what is not UTF-8, which are null in it."""
    array = _one_array(column)
    try:
        text = array.cast(pa.string())
        text.validate(full=True)
        return text, []
    except pa.ArrowInvalid:
        values: list[str | None] = []
        wrong = []
        for place, value in enumerate(array.cast(pa.binary()).to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                values.append(None)
                wrong.append(place)
        return pa.array(values, pa.string()), wrong


def encode_extras(columns: pa.Table, at: pa.Table | None) -> pa.Array:
    """The columns as one JSON object a row; null where there are none."""
    if not columns.num_columns and at is None:
        return pa.nulls(columns.num_rows, pa.string())
    named = [
        f"{_quoted(name)}, {_finite(f'c{place}', column.type)}"
        for place, (name, column) in enumerate(zip(columns.column_names, columns.columns, strict=True))
    ]
    arrays = [_plain(column) for column in columns.columns]
    names = [f"c{place}" for place in range(len(arrays))]
    if at is not None:
        inside = ", ".join(f"{_quoted(name)}, a{place}" for place, name in enumerate(at.column_names))
        named.append(f"{_quoted(LOCATION)}, json_object({inside})")
        arrays += at.columns
        names += [f"a{place}" for place in range(at.num_columns)]
    rows = len(arrays[0])
    table = pa.table([*arrays, pa.array(range(rows), pa.int64())], names=[*names, "place"])
    found = query(f"SELECT json_object({', '.join(named)})::VARCHAR AS extra FROM rows ORDER BY place", rows=table)
    return found["extra"].combine_chunks().cast(pa.string())


def check_columns(url: str, layout: Layout, names: Sequence[str], along: bool = False) -> None:
    """Raise where a file lacks a column that it must have; a file whose pictures come along needs no URLs."""
    asked = ({} if along else {"url": layout.url}) | {"caption": layout.caption}
    if not layout.lenient:
        asked |= {"sha256": layout.sha256} if layout.sha256 else {}
        lacking = [] if layout.extra == "all" else [name for name in layout.extra if name not in names]
        asked |= {"extra": lacking[0]} if lacking else {}
    for what, column in asked.items():
        if column not in names:
            raise SourceError(
                f"source {url} has no column {column!r} for {what}; it has {', '.join(map(str, names))}. "
                f"Name it in the recipe: sources.columns.{what}"
            )


def required_text_error(what: str, value: Any) -> str | None:
    """Why a value is no text that a row can do with; None if it is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"no {what}"
    return text_error(what, value)


def text_error(what: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"the {what} is {TYPES.get(type(value), type(value).__name__)}, not text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"the {what} is not UTF-8 text"
    return None


def parse_sha256(value: Any) -> str | None:
    """A SHA-256 in hex, or None where a source says something else."""
    return value.lower() if isinstance(value, str) and DIGEST.fullmatch(value) else None


def as_json(value: Any) -> str:
    """Strict JSON: without NaN, and without halves of characters."""
    try:
        text = STRICT.encode(value)
    except ValueError:
        text = STRICT.encode(_without_nan(value))
    return text if text.isascii() else text.encode(errors="replace").decode()


def truncate(content: str) -> str:
    return content[:REJECT_CHARACTERS].encode(errors="replace").decode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    return [_without_nan(one) for one in value] if isinstance(value, list) else value


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _shown(value: pa.ChunkedArray) -> str | None:
    """The one text in a column, readable if it is not."""
    raw = _one_array(value).cast(pa.binary())[0].as_py()
    return None if raw is None else raw.decode(errors="replace")


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _finite(column: str, type: pa.DataType) -> str:
    """JSON has no NaN."""
    return f"CASE WHEN isfinite({column}) THEN {column} END" if pa.types.is_floating(type) else column


def _plain(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text that is text, whatever the file claims."""
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_binary(column.type)
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    return decode_column(column)[0] if text else column
