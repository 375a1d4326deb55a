"""A lake: a folder or object-store prefix with the tables, and `lake.json` with the settings fixed at its creation."""

import json
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from deltalake.exceptions import DeltaError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data.errors import (
    DatasetVersionNotFound,
    LakeError,
    LakeNotFound,
    LakeNotWritable,
    LakeTooNew,
    NotALake,
    TableNotFound,
    UnsafeStore,
)
from data.lake import storage
from data.lake.layout import DELTA_LOG, MARKER, PROBE_PREFIX
from data.lake.shard_file import write_file
from data.lake.table import Table

FORMAT = 1
DEFAULT_BUCKETS = 4
PROBE_WRITERS, PROBE_COMMITS = 4, 5


class LakeConfig(BaseModel):
    """The content of `lake.json`."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    buckets: int = Field(
        DEFAULT_BUCKETS,
        ge=1,
        le=65_536,
        description="buckets per table, a power of two; fixed for the lake",
    )
    made: datetime
    hosts: dict[str, str] = Field(
        default_factory=dict,
        description="hosts that may be fetched from a private address, as name: address:port",
    )

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets & (buckets - 1):
            raise ValueError(f"the number of buckets is a power of two (1, 2, 4, ... 65536), not {buckets}")
        return buckets


@dataclass(frozen=True)
class Lake:
    """A lake at a URL. It keeps no connection open; each method reads or writes the store.

    Example:
        >>> lake = Lake.open("lake")
        >>> lake.table("pairs").count_rows()
    """

    url: str
    config: LakeConfig

    @classmethod
    def open(cls, url: str) -> "Lake":
        """Open an existing lake.

        Raises:
            LakeNotFound: The folder does not exist or is empty.
            NotALake: The folder contains something else, or `lake.json` is damaged.
            LakeTooNew: A later version of this project made the lake.
            LakeError: The store can't be reached.
        """
        marker = storage.join(url, MARKER)
        try:
            marked, empty = storage.exists(marker), storage.is_empty(url, ignored_prefix=PROBE_PREFIX)
        except storage.UNREACHABLE as error:
            raise LakeError(f"lake {url} can't be reached: {error}. Check the address and the credentials") from None
        if not marked:
            if empty:
                raise LakeNotFound(f"{url} holds no lake. Make one: imagen build RECIPE --lake {url}")
            raise NotALake(f"{url} exists but is not a lake (it has no {MARKER}). Name another folder with --lake")
        try:
            values = dict(json.loads(storage.read(marker)))
        except (ValueError, TypeError) as error:
            raise NotALake(f"{marker} is damaged: {error}") from None
        if values.get("format", 0) > FORMAT:
            raise LakeTooNew(
                f"{url} has lake format {values['format']}, this version reads up to {FORMAT}. "
                "Upgrade: pip install -U imagen"
            )
        try:
            return cls(url, LakeConfig(**values))
        except ValidationError as error:
            first = error.errors()[0]
            raise NotALake(f"{marker} is damaged at {first['loc'][0]}: {first['msg']}") from None

    @classmethod
    def make(cls, url: str, buckets: int = DEFAULT_BUCKETS, hosts: dict[str, str] | None = None) -> "Lake":
        """Make a lake in an empty folder or prefix, after testing that the store does not lose concurrent commits.

        Args:
            buckets: Number of buckets in each table, a power of two. It can't be changed later.
            hosts: Hosts that may be fetched from a private address, as name → address:port.

        Raises:
            NotALake: The folder is not empty.
            LakeNotWritable: The store can't be written.
            UnsafeStore: The store lost concurrent commits.
        """
        if not storage.is_empty(url, ignored_prefix=PROBE_PREFIX):
            raise NotALake(f"{url} is not empty and is not a lake. Name an empty folder with --lake")
        config = LakeConfig(buckets=buckets, made=datetime.now(UTC), hosts=hosts or {})
        try:
            probe_store(url)
            lake = cls(url, config)
            lake.save()
        except (*storage.UNREACHABLE, DeltaError) as error:
            raise LakeNotWritable(f"{url} can't be written: {error}. Name another folder or URL with --lake") from None
        return lake

    @classmethod
    def open_or_make(cls, url: str, buckets: int = DEFAULT_BUCKETS) -> "Lake":
        """Open the lake, or make it if the folder does not exist or is empty. Raises like `open` and `make`."""
        try:
            return cls.open(url)
        except LakeNotFound:
            return cls.make(url, buckets)

    def save(self) -> None:
        """Write `lake.json`."""
        storage.write(storage.join(self.url, MARKER), self.config.model_dump_json(indent=2).encode())

    def allow_host(self, name: str, address: str) -> None:
        """Allow downloads from a host at a private address, given as `address:port`."""
        self.config.hosts[name] = address
        self.save()

    def snapshot(self) -> "Lake":
        """Return a read-only view of the lake. Each table is opened once, and stays at the version that it had then."""
        return ReadOnlySnapshot(self.url, self.config)

    @property
    def buckets(self) -> range:
        """The numbers of the buckets."""
        return range(self.config.buckets)

    def table_url(self, name: str) -> str:
        """Return the URL of a table, whether the table exists or not."""
        return storage.join(self.url, name)

    def table_names(self) -> list[str]:
        """List the names of all tables. Tables of one kind share a folder, as in scores/picture-facts-1."""
        names = []
        for name in storage.folders(self.url):
            subfolders = storage.folders(self.table_url(name))
            if DELTA_LOG in subfolders:
                names.append(name)
                continue
            tables = [f"{name}/{subfolder}" for subfolder in subfolders]
            names += [table for table in tables if DELTA_LOG in storage.folders(self.table_url(table))]
        return names

    def find(self, name: str, version: int | None = None, key: Sequence[str] = ("id",)) -> Table | None:
        """Open a table at a version, by default the newest. Returns None if the table was never made.

        Args:
            key: The columns that identify a row.
        """
        return Table.open(name, self.table_url(name), version, key)

    def table(self, name: str, version: int | None = None) -> Table:
        """Open a table at a version, by default the newest.

        Raises:
            TableNotFound: The table was never made.
            DatasetVersionNotFound: The table has no such version.
        """
        if version is None:
            table = self.find(name)
            if table is None:
                raise TableNotFound(f"{self.url} has no table {name} yet. Build first: imagen build RECIPE")
            return table
        newest = self.table(name).version
        if not 0 <= version <= newest:
            raise DatasetVersionNotFound(f"{name}@{version} does not exist in {self.url}; newest is {name}@{newest}")
        table = self.find(name, version)
        assert table is not None
        return table

    def table_or_make(self, name: str, schema: pa.Schema, key: Sequence[str] = ("id",)) -> Table:
        """Open a table, or make it if it does not exist. Columns of the schema that the table lacks are added."""
        table = self.find(name, key=key) or Table.make(name, self.table_url(name), schema, key)
        table.add_missing_columns(schema)
        return table


@dataclass(frozen=True)
class ReadOnlySnapshot(Lake):
    """A lake whose tables are opened once, at first use, and then stay at the same version."""

    opened: dict[tuple[str, int | None], Table] = field(default_factory=dict)

    def snapshot(self) -> Lake:
        """Return this snapshot itself."""
        return self

    def find(self, name: str, version: int | None = None, key: Sequence[str] = ("id",)) -> Table | None:
        """Open a table, or return the table as opened earlier. Returns None if the table was never made."""
        if (name, version) not in self.opened:
            table = super().find(name, version, key)
            if table is None:
                return None
            self.opened[name, version] = table
        return self.opened[name, version]


def probe_store(url: str) -> None:
    """Test that a store does not lose concurrent commits: several writers commit to a temporary table simultaneously.

    A store without an atomic put-if-absent loses commits silently. One conditional put is not a sufficient test. Some
    stores handle a single conditional put correctly, but let two concurrent ones both succeed.

    Raises:
        UnsafeStore: The table has fewer rows than were committed.
    """
    probe_url = storage.join(url, PROBE_PREFIX + uuid.uuid4().hex)
    start = threading.Barrier(PROBE_WRITERS)

    def commit(writer: int) -> None:
        table = Table.open("probe", probe_url)
        assert table is not None
        start.wait()
        for number in range(PROBE_COMMITS):
            table.append([write_file(probe_url, 0, pa.table({"id": [f"{writer}-{number}"]}))])

    storage.write(storage.join(probe_url, ".writable"), b"")
    try:
        probe = Table.make("probe", probe_url, pa.schema({"id": pa.string()}))
        with ThreadPoolExecutor(PROBE_WRITERS) as pool:
            list(pool.map(commit, range(PROBE_WRITERS)))
        probe.refresh()
        written, kept = PROBE_WRITERS * PROBE_COMMITS, probe.count_rows()
    finally:
        storage.remove(probe_url)
    if kept < written:
        raise UnsafeStore(
            f"the store of {url} lost {written - kept} of {written} concurrent commits: "
            "it has no atomic conditional put (If-None-Match). Use another store; "
            "AWS S3, MinIO, Ceph and Cloudflare R2 have it"
        )
