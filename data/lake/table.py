"""A Delta table of a lake. Commits the files that workers wrote, so that each row is in the table exactly once.

Each commit contains the table's next transaction number. If two processes commit on the same state, the store accepts
only one of the commits. The other process then reads the files added since its plan. It leaves out those of its own
files whose rows are in the table by now, and tries again. Readers do not see files that are not committed. The
uncommitted files of a killed or retried worker are orphans, and their rows are still pending.
"""

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
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from data.lake import storage
from data.lake.shard_file import ShardFile, open_files

TRANSACTION = "imagen"  # the application id of every table's transactions
COMMIT_TRIES = 200  # before a commit gives up; each lost race means that another process has committed
METADATA = "imagen"  # the key of our record in a commit's metadata
READERS = 16  # files whose footers are read at once


@dataclass
class Table:
    """A table at the version at which it was opened. `refresh` moves it to the newest version.

    Attributes:
        key: The columns that identify a row. No two rows of the table have the same values in these columns.
        planned_files: The files that the caller's plan is based on, and the files that the caller added.
        last_transaction: The newest transaction whose files are all in `planned_files` or `foreign_files`.
        foreign_files: Files that other processes added since the plan.
        extra_columns: Columns that are added as nulls on reading, because the table lacks them.
    """

    name: str
    url: str
    state: DeltaTable
    key: Sequence[str] = ("id",)
    planned_files: set[str] = field(init=False)
    last_transaction: int = field(init=False)
    foreign_files: set[str] = field(init=False)
    extra_columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    _files: tuple[int, dict[str, tuple[int, int]]] = field(init=False, default=(-1, {}))  # version, and its files

    def __post_init__(self) -> None:
        self.planned_files, self.last_transaction, self.foreign_files = set(self.files()), self.transaction, set()

    @classmethod
    def open(cls, name: str, url: str, version: int | None = None, key: Sequence[str] = ("id",)) -> "Table | None":
        """Open a table at a version, by default the newest. Returns None if the table was never made."""
        try:
            target, options = storage.delta_url(url), storage.delta_options(url)
            state = storage.with_retries(url, lambda: DeltaTable(target, version=version, storage_options=options))
        except TableNotFoundError:
            return None
        return cls(name, url, state, key)

    @classmethod
    def make(cls, name: str, url: str, schema: pa.Schema, key: Sequence[str] = ("id",)) -> "Table":
        """Make an empty table, partitioned by bucket. If another process makes it first, open theirs."""
        fields = Schema.from_arrow(schema.append(pa.field("bucket", pa.int32())))
        create = partial(
            DeltaTable.create,
            storage.delta_url(url),
            fields,
            mode="ignore",
            partition_by=["bucket"],
            storage_options=storage.delta_options(url),
            commit_properties=CommitProperties(max_commit_retries=0),  # else a repeated commit becomes version 1
            configuration={
                "delta.dataSkippingStatsColumns": "id",  # so that the log contains no captions or URLs
                "delta.logRetentionDuration": "interval 3650 days",  # the log contains the lineage
                "delta.deletedFileRetentionDuration": "interval 3650 days",
            },
        )
        try:
            storage.with_retries(url, create)
        except CommitFailedError:
            table = cls.open(name, url, key=key)  # another process made it, or we did and the store reported an error
            if table is None:
                raise
            return table
        table = cls.open(name, url, key=key)
        assert table is not None
        return table

    @property
    def version(self) -> int:
        """The table's version that is open."""
        return self.state.version()

    @property
    def transaction(self) -> int:
        """The number of the newest transaction in the open version; 0 before the first transaction."""
        return self.state.transaction_version(TRANSACTION) or 0

    def refresh(self) -> None:
        """Move to the newest version. The caller must make its plan again."""
        storage.with_retries(self.url, self.state.update_incremental)
        self.__post_init__()

    def add_missing_columns(self, schema: pa.Schema) -> None:
        """Add columns of the schema that the table lacks because an earlier release made it. Their values are null."""
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
                    raise  # not a race: nobody else changed the table
            else:
                self.refresh()

    def files(self) -> dict[str, tuple[int, int]]:
        """Return every file of this version, as path → (bucket, number of rows)."""
        if self._files[0] != self.version:
            actions = pa.table(self.state.get_add_actions(flatten=True))
            columns = (actions[name].to_pylist() for name in ("path", "partition.bucket", "num_records"))
            files = {path: (int(bucket), rows) for path, bucket, rows in zip(*columns, strict=True)}
            self._files = self.version, files
        return self._files[1]

    def file_sizes(self) -> dict[str, int]:
        """Return every file of this version, as path → size in bytes."""
        actions = pa.table(self.state.get_add_actions(flatten=True))
        return dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))

    def count_rows(self) -> int:
        """Return the number of rows. This reads only the log."""
        return sum(rows for _, rows in self.files().values())

    def mean_row_bytes(self) -> int:
        """Return the mean stored size of a row in bytes, at least 1."""
        return sum(self.file_sizes().values()) // max(1, self.count_rows()) or 1

    def schema(self) -> pa.Schema:
        """Return the schema of the Delta table, with the partition column `bucket`."""
        return pa.schema(self.state.schema())

    def dataset(self, bucket: int | None = None, paths: Iterable[str] | None = None) -> pads.Dataset:
        """Return the rows of one bucket, of given files, or of the whole table, to be scanned by pyarrow or DuckDB.

        The partition column `bucket` is left out.
        """
        if paths is None:
            paths = [path for path, (path_bucket, _) in self.files().items() if bucket in (None, path_bucket)]
        return open_files(self.url, paths, self.file_schema())

    def last_record(self) -> dict[str, Any]:
        """Return the newest record among the last 20 commits, or an empty record if none of them has one."""
        return next((record for _, _, record in self.records(limit=20)), {})

    def records(self, limit: int | None = None) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield version, time in milliseconds and record of each commit that has a record, newest first.

        Args:
            limit: The number of commits to look at; by default all.
        """
        for commit in storage.with_retries(self.url, lambda: self.state.history(limit)):
            if METADATA in commit:
                yield commit["version"], commit["timestamp"], json.loads(commit[METADATA])

    def file_schema(self) -> pa.Schema:
        """Return the schema of the files. It has no partition column, and plain types instead of Arrow's view types."""
        columns = [column for column in self.schema() if column.name != "bucket"]
        fields = [pa.field(column.name, _plain_type(column.type)) for column in columns]
        names = {field.name for field in fields}
        return pa.schema([*fields, *(field for field in self.extra_columns if field.name not in names)])

    def read_with_files(self, bucket: int, columns: Sequence[str]) -> pa.Table:
        """Read columns of a bucket's rows, and `file`, the path of the file that contains the row."""
        table = self.dataset(bucket).to_table(columns=[*columns, "__filename"])
        start = len(storage.split_url(self.url)[1]) + 1
        paths = pc.utf8_slice_codeunits(table["__filename"], start=start)
        return table.drop_columns("__filename").append_column("file", paths)

    def find_rows(self, ids: Iterable[str], columns: Sequence[str]) -> pa.Table:
        """Read columns of the rows with given ids.

        Only files and row groups whose range of ids may contain a given id are read. pyarrow's own filter uses these
        statistics only for a few dozen ids. For more ids, it reads everything.
        """
        wanted = sorted(set(ids))

        def may_hold(first: str, last: str) -> bool:
            place = bisect_left(wanted, first)
            return place < len(wanted) and wanted[place] <= last

        actions = pa.table(self.state.get_add_actions(flatten=True))
        ranges = (actions[name].to_pylist() for name in ("path", "min.id", "max.id"))
        paths = [path for path, first, last in zip(*ranges, strict=True) if may_hold(first, last)]
        if not paths:
            return self.file_schema().empty_table().select(list(columns))
        files = self.dataset(paths=paths)

        def select_row_groups(fragment: pads.ParquetFileFragment) -> pads.ParquetFileFragment:
            groups = [group for group in fragment.row_groups if may_hold(*_id_range(group))]
            return fragment.subset(row_group_ids=[group.id for group in groups])

        with ThreadPoolExecutor(READERS) as pool:
            fragments = list(pool.map(select_row_groups, files.get_fragments()))
        part = pads.FileSystemDataset(fragments, files.schema, files.format, files.filesystem)
        return part.to_table(columns=list(columns), filter=pc.field("id").isin(pa.array(wanted)))

    def append(self, files: Sequence[ShardFile], metadata: dict[str, Any] | None = None) -> list[ShardFile]:
        """Commit files, and retry if another process commits first.

        A file is left out if other processes have added a row with the same `key` since the plan. A file that is in the
        table already counts as committed, so a repeated commit is harmless.

        Args:
            metadata: The record to store with the commit.

        Returns:
            Those of the given files that are in the table now.

        Raises:
            CommitFailedError: COMMIT_TRIES races in a row were lost, or the store refuses the commit.
        """
        landed: list[ShardFile] = []
        remaining = list(files)
        for _ in range(COMMIT_TRIES):
            if self.transaction != self.last_transaction:
                present = set(self.files())
                landed += [file for file in remaining if file.path in present]
                self.planned_files.update(file.path for file in landed)
                self.foreign_files, self.last_transaction = present - self.planned_files, self.transaction
            remaining = self._without_foreign_rows([file for file in remaining if file not in landed])
            if not remaining:
                return landed
            if self._commit(remaining, {}, metadata):
                self.planned_files.update(file.path for file in remaining)
                return landed + remaining
        raise CommitFailedError(f"{self.name}: lost {COMMIT_TRIES} races in a row")

    def replace(self, add: Sequence[ShardFile], remove: Iterable[str], metadata: dict[str, Any]) -> bool:
        """Add files and remove others in one commit on the open version.

        Returns:
            False if another process committed first; then nothing is changed.
        """
        present = self.files()
        return self._commit(add, {path: present[path][0] for path in remove}, metadata)

    def _commit(self, add: Sequence[ShardFile], remove: dict[str, int], metadata: dict[str, Any] | None) -> bool:
        before = self.transaction
        removals = [_remove_action(path, bucket) for path, bucket in remove.items()]
        actions: list[AddAction | RemoveAction] = [*map(_add_action, add), *removals]
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
                raise  # neither a lost race nor a network error
            present = self.files().keys()
            done = bool(add or remove) and present >= {file.path for file in add} and present.isdisjoint(remove)
            if self.transaction != before + 1 or not done:
                return False
            # our commit succeeded although the store reported an error
        self.last_transaction = before + 1
        storage.with_retries(self.url, self.state.update_incremental)
        return True

    def _without_foreign_rows(self, files: list[ShardFile]) -> list[ShardFile]:
        """Select the files that share no row with files that other processes added since the plan."""
        present = self.files() if self.foreign_files else {}
        buckets = {file.bucket for file in files}
        overlapping = [path for path in self.foreign_files if path in present and present[path][0] in buckets]
        if not overlapping:
            return files
        foreign_keys = self._keys(overlapping)
        return [file for file in files if foreign_keys.isdisjoint(self._keys([file.path]))]

    def _keys(self, paths: list[str]) -> set[tuple[Any, ...]]:
        rows = self.dataset(paths=paths).to_table(columns=list(self.key))
        return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _id_range(group: Any) -> tuple[str, str]:
    """Return the smallest and the largest id in a row group."""
    statistics = group.statistics["id"]
    return statistics["min"], statistics["max"]


def _plain_type(type: pa.DataType) -> pa.DataType:
    """Return the plain type for one of Delta's view or large types. Files are read and joined with plain types."""
    if pa.types.is_string_view(type) or pa.types.is_large_string(type):
        return pa.string()
    if pa.types.is_binary_view(type) or pa.types.is_large_binary(type):
        return pa.binary()
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_plain_type(type.value_type))
    if pa.types.is_struct(type):
        return pa.struct([pa.field(member.name, _plain_type(member.type)) for member in type])
    return type


def _add_action(file: ShardFile) -> AddAction:
    statistics = {
        "numRecords": file.rows,
        "minValues": {"id": file.first},
        "maxValues": {"id": file.last},
        "nullCount": {"id": 0},
    }
    partition: dict[str, str | None] = {"bucket": str(file.bucket)}
    return AddAction(file.path, file.size, partition, _now_ms(), True, json.dumps(statistics))


def _remove_action(path: str, bucket: int) -> RemoveAction:
    return RemoveAction(path, True, _now_ms(), partition_values={"bucket": str(bucket)})


def _now_ms() -> int:
    return int(time.time() * 1000)
