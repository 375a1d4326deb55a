"""One Delta table of a lake: files that workers wrote are committed here, each row exactly once.

A commit carries the table's next transaction number. Of two that commit on the same state the store lets one land; the
other reads what came since its plan, leaves out files whose rows are there already, and tries again. An uncommitted
file does not exist: what a killed or retried worker left behind is an orphan, and its rows are still pending.
"""

import hashlib
import io
import json
import random
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from data.lake import storage

TRANSACTION = "imagen"  # the one application id of every table
COMMIT_TRIES = 200  # lost races before a commit gives up; each means that somebody else got on
METADATA = "imagen"  # the key of our own record in a commit's metadata
BINARY_ROW_GROUP = 128  # rows: a picture is found without reading its thousand neighbours
TEXT_ROW_GROUP = 65_536
READERS = 16  # files whose footers are read at once


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A Parquet file that a worker wrote and nobody sees until it is committed."""

    path: str  # relative to the table
    bucket: int
    rows: int
    size: int
    first: str  # smallest and largest id
    last: str


def write_file(table_url: str, bucket: int, rows: pa.Table, row_group: int | None = None) -> ShardFile:
    """Write rows of one bucket as one immutable file, sorted by id, with statistics of the id alone."""
    rows = rows.sort_by("id")
    content = encode(rows, row_group)
    path = f"bucket={bucket}/{digest(content)}.parquet"
    storage.write(storage.join(table_url, path), content)
    return ShardFile(path, bucket, rows.num_rows, len(content), rows["id"][0].as_py(), rows["id"][-1].as_py())


def encode(rows: pa.Table, row_group: int | None = None) -> bytes:
    """Sorted rows as a Parquet file."""
    binary = any(pa.types.is_binary(column.type) or pa.types.is_struct(column.type) for column in rows.schema)
    buffer = io.BytesIO()
    pq.write_table(
        rows,
        buffer,
        compression="zstd",
        row_group_size=row_group or (BINARY_ROW_GROUP if binary else TEXT_ROW_GROUP),
        write_statistics=["id"],
        use_dictionary=[column.name for column in rows.schema if pa.types.is_string(column.type)],
    )
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """What a file is called: written again it is the same file, and what has changed on the way can be told."""
    return hashlib.sha256(content).hexdigest()[:32]


def open_files(table_url: str, paths: Iterable[str], schema: pa.Schema) -> pads.Dataset:
    """Some files of a table, for a worker that was told which."""
    root = storage.split_url(table_url)[1]
    arrow = storage.arrow_filesystem(table_url)
    return pads.dataset([f"{root}/{path}" for path in paths], schema=schema, filesystem=arrow, format="parquet")


@dataclass
class Table:
    """A table as of the state it was opened at; `refresh` moves it to the newest."""

    name: str
    url: str
    state: DeltaTable
    key: Sequence[str] = ("id",)  # what must be there once
    planned_files: set[str] = field(init=False)  # the files that the caller's plan has seen, and those it added
    last_transaction: int = field(init=False)  # the newest transaction whose files are all in `seen` or `foreign`
    foreign_files: set[str] = field(init=False)  # files that others added since the plan
    extra_columns: pa.Schema = field(
        default_factory=lambda: pa.schema([])
    )  # columns that it will have once it is widened
    _files: tuple[int, dict[str, tuple[int, int]]] = field(init=False, default=(-1, {}))  # of which version

    def __post_init__(self) -> None:
        self.planned_files, self.last_transaction, self.foreign_files = set(self.files()), self.transaction, set()

    @classmethod
    def open(cls, name: str, url: str, version: int | None = None, key: Sequence[str] = ("id",)) -> "Table | None":
        """The table, or none if it was never made."""
        try:
            target, options = storage.delta_url(url), storage.delta_options(url)
            state = storage.with_retries(url, lambda: DeltaTable(target, version=version, storage_options=options))
        except TableNotFoundError:
            return None
        return cls(name, url, state, key)

    @classmethod
    def make(cls, name: str, url: str, schema: pa.Schema, key: Sequence[str] = ("id",)) -> "Table":
        """Make the table, empty; if another process did so first, theirs."""
        fields = Schema.from_arrow(schema.append(pa.field("bucket", pa.int32())))
        create = partial(
            DeltaTable.create,
            storage.delta_url(url),
            fields,
            mode="ignore",
            partition_by=["bucket"],
            storage_options=storage.delta_options(url),
            commit_properties=CommitProperties(max_commit_retries=0),  # else a denied one is made again, as version 1
            configuration={
                "delta.dataSkippingStatsColumns": "id",  # the log must not hold captions or URLs
                "delta.logRetentionDuration": "interval 3650 days",  # lineage lies in the log
                "delta.deletedFileRetentionDuration": "interval 3650 days",
            },
        )
        try:
            storage.with_retries(url, create)
        except CommitFailedError:
            made = cls.open(name, url, key=key)  # another was first; or we were, and the store said no after the write
            if made is None:
                raise
            return made
        made = cls.open(name, url, key=key)
        assert made is not None
        return made

    @property
    def version(self) -> int:
        return self.state.version()

    @property
    def transaction(self) -> int:
        return self.state.transaction_version(TRANSACTION) or 0

    def refresh(self) -> None:
        """Move to the newest state, on which the caller plans again."""
        storage.with_retries(self.url, self.state.update_incremental)
        self.__post_init__()

    def add_missing_columns(self, schema: pa.Schema) -> None:
        """Add the columns that a table made by an earlier version lacks; its rows have nothing in them."""
        for _ in range(COMMIT_TRIES):
            missing = [column for column in schema if column.name not in self.schema().names]
            if not missing:
                return
            try:
                self.state.alter.add_columns(list(Schema.from_arrow(pa.schema(missing)).fields))
            except (DeltaError, OSError):
                time.sleep(random.uniform(0.01, 0.1))
                before = self.version
                self.refresh()
                if self.version == before:
                    raise  # nobody else was adding them
            else:
                self.refresh()

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of this state: path → (bucket, rows)."""
        if self._files[0] != self.version:
            actions = pa.table(self.state.get_add_actions(flatten=True))
            columns = (actions[name].to_pylist() for name in ("path", "partition.bucket", "num_records"))
            files = {path: (int(bucket), rows) for path, bucket, rows in zip(*columns, strict=True)}
            self._files = self.version, files
        return self._files[1]

    def file_sizes(self) -> dict[str, int]:
        """Every file of this state, and its bytes."""
        actions = pa.table(self.state.get_add_actions(flatten=True))
        return dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))

    def count_rows(self) -> int:
        return sum(rows for _, rows in self.files().values())

    def mean_row_bytes(self) -> int:
        """On average, as they are stored."""
        return sum(self.file_sizes().values()) // max(1, self.count_rows()) or 1

    def schema(self) -> pa.Schema:
        return pa.schema(self.state.schema())

    def dataset(self, bucket: int | None = None, paths: Iterable[str] | None = None) -> pads.Dataset:
        """The rows of a bucket, of some files, or of all, for pyarrow and DuckDB to scan; without the bucket column."""
        if paths is None:
            paths = [path for path, (of, _) in self.files().items() if bucket is None or of == bucket]
        return open_files(self.url, paths, self.file_schema())

    def last_record(self) -> dict[str, Any]:
        """What our last commit said of itself; empty if none did."""
        return next((record for _, _, record in self.records(limit=20)), {})

    def records(self, limit: int | None = None) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """The commits that carry a record of ours, newest first: version, time in milliseconds, record."""
        for commit in storage.with_retries(self.url, lambda: self.state.history(limit)):
            if METADATA in commit:
                yield commit["version"], commit["timestamp"], json.loads(commit[METADATA])

    def file_schema(self) -> pa.Schema:
        """The schema of the files: all but the partition column, in their own types."""
        fields = [pa.field(f.name, _plain(f.type)) for f in self.schema() if f.name != "bucket"]
        there = {field.name for field in fields}
        return pa.schema([*fields, *(field for field in self.extra_columns if field.name not in there)])

    def read_with_files(self, bucket: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a bucket's rows, with `file`: the path in which each row lies."""
        table = self.dataset(bucket).to_table(columns=[*columns, "__filename"])
        start = len(storage.split_url(self.url)[1]) + 1
        paths = pc.utf8_slice_codeunits(table["__filename"], start=start)
        return table.drop_columns("__filename").append_column("file", paths)

    def find_rows(self, ids: Iterable[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of the rows of some ids. Reads only the files, and of them only the row groups, that may hold
        one: pyarrow's own filter asks the statistics for a few dozen ids, and beyond that reads everything.
        """
        wanted = sorted(set(ids))

        def may_hold(first: str, last: str) -> bool:
            at = bisect_left(wanted, first)
            return at < len(wanted) and wanted[at] <= last

        actions = pa.table(self.state.get_add_actions(flatten=True))
        ranges = (actions[name].to_pylist() for name in ("path", "min.id", "max.id"))
        paths = [path for path, first, last in zip(*ranges, strict=True) if may_hold(first, last)]
        if not paths:
            return self.file_schema().empty_table().select(list(columns))
        files = self.dataset(paths=paths)

        def near(fragment: pads.ParquetFileFragment) -> pads.ParquetFileFragment:
            groups = [group for group in fragment.row_groups if may_hold(*_range(group))]
            return fragment.subset(row_group_ids=[group.id for group in groups])

        with ThreadPoolExecutor(READERS) as pool:
            fragments = list(pool.map(near, files.get_fragments()))
        part = pads.FileSystemDataset(fragments, files.schema, files.format, files.filesystem)
        return part.to_table(columns=list(columns), filter=pc.field("id").isin(pa.array(wanted)))

    def append(self, files: Sequence[ShardFile], metadata: dict[str, Any] | None = None) -> list[ShardFile]:
        """Commit what is not there yet. Returns the files that are in the table when this returns."""
        landed: list[ShardFile] = []
        todo = list(files)
        for _ in range(COMMIT_TRIES):
            if self.transaction != self.last_transaction:
                present = set(self.files())
                landed += [file for file in todo if file.path in present]
                self.planned_files.update(file.path for file in landed)
                self.foreign_files, self.last_transaction = present - self.planned_files, self.transaction
            todo = self._without_foreign_rows([file for file in todo if file not in landed])
            if not todo:
                return landed
            if self._commit(todo, {}, metadata):
                self.planned_files.update(file.path for file in todo)
                return landed + todo
        raise CommitFailedError(f"{self.name}: lost {COMMIT_TRIES} races in a row")

    def replace(self, add: Sequence[ShardFile], remove: Iterable[str], metadata: dict[str, Any]) -> bool:
        """Put files in the place of others in one commit. False, and nothing done, if somebody was there first."""
        present = self.files()
        return self._commit(add, {path: present[path][0] for path in remove}, metadata)

    def _commit(self, add: Sequence[ShardFile], remove: dict[str, int], metadata: dict[str, Any] | None) -> bool:
        before = self.transaction
        actions: list[AddAction | RemoveAction] = [*map(_add, add), *(_remove(*gone) for gone in remove.items())]
        properties = CommitProperties(
            custom_metadata={METADATA: json.dumps(metadata)} if metadata else None,
            app_transactions=[Transaction(TRANSACTION, before + 1)],
        )
        try:
            self.state.create_write_transaction(
                actions, "append", self.state.schema(), ["bucket"], commit_properties=properties
            )
        except (DeltaError, OSError) as error:
            time.sleep(random.uniform(0.01, 0.1))
            storage.with_retries(self.url, self.state.update_incremental)
            if self.transaction == before and (isinstance(error, CommitFailedError) or storage.is_local(self.url)):
                raise  # neither a race nor the network
            there = self.files().keys()
            done = bool(add or remove) and there >= {file.path for file in add} and there.isdisjoint(remove)
            if self.transaction != before + 1 or not done:
                return False  # else it was done, and then denied
        self.last_transaction = before + 1
        storage.with_retries(self.url, self.state.update_incremental)
        return True

    def _without_foreign_rows(self, files: list[ShardFile]) -> list[ShardFile]:
        """Of some written files, those that share no row with what others added since the plan."""
        present = self.files() if self.foreign_files else {}
        buckets = {file.bucket for file in files}
        near = [path for path in self.foreign_files if path in present and present[path][0] in buckets]
        if not near:
            return files
        there = self._keys(near)
        return [file for file in files if there.isdisjoint(self._keys([file.path]))]

    def _keys(self, paths: list[str]) -> set[tuple[Any, ...]]:
        rows = self.dataset(paths=paths).to_table(columns=list(self.key))
        return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _range(group: Any) -> tuple[str, str]:
    said = group.statistics["id"]
    return said["min"], said["max"]


def _plain(type: pa.DataType) -> pa.DataType:
    """Delta hands out Arrow's view types; files are read and joined in the plain ones."""
    if pa.types.is_string_view(type) or pa.types.is_large_string(type):
        return pa.string()
    if pa.types.is_binary_view(type) or pa.types.is_large_binary(type):
        return pa.binary()
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_plain(type.value_type))
    if pa.types.is_struct(type):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in type])
    return type


def _add(file: ShardFile) -> AddAction:
    statistics = {
        "numRecords": file.rows,
        "minValues": {"id": file.first},
        "maxValues": {"id": file.last},
        "nullCount": {"id": 0},
    }
    partition: dict[str, str | None] = {"bucket": str(file.bucket)}
    return AddAction(file.path, file.size, partition, _now(), True, json.dumps(statistics))


def _remove(path: str, bucket: int) -> RemoveAction:
    return RemoveAction(path, True, _now(), partition_values={"bucket": str(bucket)})


def _now() -> int:
    return int(time.time() * 1000)
