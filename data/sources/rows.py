"""Checks the rows of a source's file. A row is valid if it has a URL and a caption, and otherwise rejected.

The reason for each rejection is stored in the table `rejects`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import SourceError
from data.lake.sql import query, quote_text

BATCH = 65_536  # rows in memory while a file is read
REJECT_CHARACTERS = 2_000  # characters of a rejected row that are stored
LOCATION = "_at"  # the key in `extra` for the location of a picture that the source itself contains
ROW_SCHEMA = pa.schema(
    {"row": pa.int64(), "url": pa.string(), "caption": pa.string(), "extra": pa.string(), "sha256": pa.string()}
)
STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
TYPES = {int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The roles of a source's columns, and the syntax of its text files.

    Attributes:
        url: The column of URLs.
        caption: The column of captions.
        sha256: The column with the SHA-256 of each picture's bytes, in hex; None if there is none.
        image: The column of pictures, if the file contains pictures.
        extra: Further columns to keep in `extra`.
        names: The names of the columns in a CSV or TSV without a header.
        quoted: Whether quotes enclose fields in a CSV or TSV.
        lenient: Whether `sha256` and extra columns may be missing.
    """

    url: str = "url"
    caption: str = "caption"
    sha256: str | None = None
    image: str = "image"
    extra: tuple[str, ...] | Literal["all"] = ()
    names: tuple[str, ...] | None = None
    quoted: bool = True
    lenient: bool = False

    def extra_of(self, columns: Sequence[str]) -> list[str]:
        """Return those of a file's columns that are extra columns."""
        reserved = {self.url, self.caption, self.sha256, self.image, LOCATION}
        wanted = columns if self.extra == "all" else [name for name in self.extra if name in columns]
        return [name for name in wanted if name not in reserved]


class Reject(NamedTuple):
    """A rejected row."""

    row: int | None  # the row's number, from 1; the line number in text files; None if the whole file is rejected
    reason: str
    content: str  # the start of the row


class Rows(NamedTuple):
    """A batch of a file's rows. `valid` has the columns of ROW_SCHEMA."""

    valid: pa.Table
    rejects: list[Reject]


@dataclass
class RowCollector:
    """Collects rows that are read one at a time. Each row is checked, and is then either valid or rejected."""

    layout: Layout
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    _extra_names: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # keyed by the last row's keys

    def __len__(self) -> int:
        return len(self.rows) + len(self.rejects)

    def add(self, row: int, fields: Mapping[str, Any], location: Mapping[str, Any] | None = None) -> None:
        """Add a row.

        Args:
            row: The number of the row, from 1.
            fields: The row's values, keyed by column.
            location: The location of the row's picture, if the source contains it.
        """
        try:
            self._add(row, fields, location)
        except RecursionError:
            self.reject(row, "the row is nested too deeply", "")

    def _add(self, row: int, fields: Mapping[str, Any], location: Mapping[str, Any] | None) -> None:
        layout = self.layout
        url, caption = fields.get(layout.url), fields.get(layout.caption)
        reason = required_text_error("URL", url) or text_error("caption", caption)
        if reason:
            self.reject(row, reason, as_json(fields))
            return
        names = tuple(fields)
        if names not in self._extra_names:
            self._extra_names = {names: layout.extra_of(names)}  # the next row most often has the same keys
        extra = {name: fields[name] for name in self._extra_names[names] if fields[name] not in (None, "")}
        if location is not None:
            extra[LOCATION] = location
        sha256 = fields.get(layout.sha256) if layout.sha256 and location is None else None  # hash of the URL's bytes
        self.rows.append((row, url, caption or "", as_json(extra) if extra else None, parse_sha256(sha256)))

    def reject(self, row: int, reason: str, content: str) -> None:
        """Add a rejected row. Only the start of its content is kept."""
        self.rejects.append(Reject(row, reason, truncate(content)))

    def take(self) -> Rows:
        """Return the rows that were added since the last call, and clear them."""
        columns = zip(*self.rows, strict=True) if self.rows else [[] for _ in ROW_SCHEMA]
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, ROW_SCHEMA, strict=True)]
        batch = Rows(pa.Table.from_arrays(arrays, schema=ROW_SCHEMA), self.rejects)
        self.rows, self.rejects = [], []
        return batch


def parse_table(table: pa.Table, layout: Layout, first: int, locations: pa.Table | None = None) -> Rows:
    """Check the rows of a table. Each row is either valid or rejected.

    Args:
        first: The number of the first row.
        locations: The location of each row's picture, if the source contains pictures.
    """
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
    valid = pa.Table.from_arrays(
        [
            rows,
            texts["URL"],
            pc.fill_null(texts["caption"], ""),
            encode_extras(table.select(layout.extra_of(table.column_names)), locations),
            pa.nulls(table.num_rows, pa.string()) if digests is None else pa.array(digests, pa.string()),
        ],
        schema=ROW_SCHEMA,
    )
    if not reasons:
        return Rows(valid, [])
    rejects = []
    for place, reason in sorted(reasons.items()):
        content = {name: _readable(table[name].slice(place, 1)) for name in (layout.url, layout.caption)}
        rejects.append(Reject(first + place, reason, truncate(json.dumps(content, ensure_ascii=False))))
    kept = [place for place in range(table.num_rows) if place not in reasons]
    return Rows(valid.take(pa.array(kept, pa.int64())), rejects)


def decode_column(column: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
    """Decode a column to text. Returns the text, and the indices of values that are not UTF-8, which become null."""
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


def encode_extras(columns: pa.Table, locations: pa.Table | None) -> pa.Array:
    """Encode the extra columns as one JSON object per row, with the location of a picture under the key LOCATION.

    All values are null if there are neither extra columns nor locations.
    """
    if not columns.num_columns and locations is None:
        return pa.nulls(columns.num_rows, pa.string())
    members = [
        f"{quote_text(name)}, {_finite_sql(f'c{place}', column.type)}"
        for place, (name, column) in enumerate(zip(columns.column_names, columns.columns, strict=True))
    ]
    arrays = [_json_ready(column) for column in columns.columns]
    names = [f"c{place}" for place in range(len(arrays))]
    if locations is not None:
        inside = ", ".join(f"{quote_text(name)}, a{place}" for place, name in enumerate(locations.column_names))
        members.append(f"{quote_text(LOCATION)}, json_object({inside})")
        arrays += locations.columns
        names += [f"a{place}" for place in range(locations.num_columns)]
    rows = len(arrays[0])
    table = pa.table([*arrays, pa.array(range(rows), pa.int64())], names=[*names, "place"])
    encoded = query(f"SELECT json_object({', '.join(members)})::VARCHAR AS extra FROM rows ORDER BY place", rows=table)
    return encoded["extra"].combine_chunks().cast(pa.string())


def check_columns(url: str, layout: Layout, names: Sequence[str], has_pictures: bool = False) -> None:
    """Check that a file has the required columns. A file that contains pictures needs no URLs.

    Args:
        names: The columns of the file.

    Raises:
        SourceError: A column is missing.
    """
    required = ({} if has_pictures else {"url": layout.url}) | {"caption": layout.caption}
    if not layout.lenient:
        required |= {"sha256": layout.sha256} if layout.sha256 else {}
        missing = [] if layout.extra == "all" else [name for name in layout.extra if name not in names]
        required |= {"extra": missing[0]} if missing else {}
    for role, column in required.items():
        if column not in names:
            raise SourceError(
                f"source {url} has no column {column!r} for {role}; it has {', '.join(map(str, names))}. "
                f"Name it in the recipe: sources.columns.{role}"
            )


def required_text_error(field_name: str, value: Any) -> str | None:
    """Return why a value is not a non-empty text, or None if it is one."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"no {field_name}"
    return text_error(field_name, value)


def text_error(field_name: str, value: Any) -> str | None:
    """Return why a value is not a text, or None if it is a text or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        return f"the {field_name} is {TYPES.get(type(value), type(value).__name__)}, not text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"the {field_name} is not UTF-8 text"
    return None


def parse_sha256(value: Any) -> str | None:
    """Return a SHA-256 in lower-case hex, or None if the value is not a SHA-256."""
    return value.lower() if isinstance(value, str) and DIGEST.fullmatch(value) else None


def as_json(value: Any) -> str:
    """Encode a value as strict JSON: NaN becomes null, and unpaired surrogates become question marks."""
    try:
        text = STRICT.encode(value)
    except ValueError:
        text = STRICT.encode(_without_nan(value))
    return text if text.isascii() else text.encode(errors="replace").decode()


def truncate(content: str) -> str:
    """Return the start of a text, in the length that is stored for a rejected row."""
    return content[:REJECT_CHARACTERS].encode(errors="replace").decode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(member) for key, member in value.items()}
    return [_without_nan(element) for element in value] if isinstance(value, list) else value


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _readable(value: pa.ChunkedArray) -> str | None:
    """Return the only text in a column. Bytes that are not UTF-8 become replacement characters."""
    raw = _one_array(value).cast(pa.binary())[0].as_py()
    return None if raw is None else raw.decode(errors="replace")


def _finite_sql(column: str, type: pa.DataType) -> str:
    """Return a SQL expression for a column, with null instead of NaN and infinity, which JSON does not have."""
    return f"CASE WHEN isfinite({column}) THEN {column} END" if pa.types.is_floating(type) else column


def _json_ready(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Convert a column to a type that DuckDB can encode as JSON. Bytes become text, and 16-bit floats become 32-bit."""
    text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_binary(column.type)
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    return decode_column(column)[0] if text else column
