"""A lake: one folder or bucket prefix that holds the tables, and what was fixed when it was made."""

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
from data.lake.table import Table, write_file

FORMAT = 1
DEFAULT_BUCKETS = 4
PROBE_WRITERS, PROBE_COMMITS = 4, 5


class LakeConfig(BaseModel):
    """What `lake.json` says."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    buckets: int = Field(DEFAULT_BUCKETS, ge=1, le=65_536, description="fixed when the lake is made; a power of two")
    made: datetime
    hosts: dict[str, str] = Field(
        default_factory=dict,
        description="like /etc/hosts: names that may be fetched from a private address, as name: address:port",
    )

    @field_validator("buckets")
    @classmethod
    def _power_of_two(cls, buckets: int) -> int:
        if buckets & (buckets - 1):
            raise ValueError(f"the number of buckets is a power of two (1, 2, 4, ... 65536), not {buckets}")
        return buckets


@dataclass(frozen=True)
class Lake:
    url: str
    config: LakeConfig

    @classmethod
    def open(cls, url: str) -> "Lake":
        marker = storage.join(url, MARKER)
        try:
            found, empty = storage.exists(marker), storage.is_empty(url, but=PROBE_PREFIX)
        except storage.UNREACHABLE as error:
            raise LakeError(f"lake {url} can't be reached: {error}. Check the address and the credentials") from None
        if not found:
            if empty:
                raise LakeNotFound(f"{url} holds no lake. Make one: imagen build RECIPE --lake {url}")
            raise NotALake(f"{url} exists and is no lake (it has no {MARKER}). Name another folder with --lake")
        try:
            said = dict(json.loads(storage.read(marker)))
        except (ValueError, TypeError) as error:
            raise NotALake(f"{marker} is damaged: {error}") from None
        if said.get("format", 0) > FORMAT:
            raise LakeTooNew(
                f"{url} has lake format {said['format']}, this version reads up to {FORMAT}. "
                "Upgrade: pip install -U imagen"
            )
        try:
            return cls(url, LakeConfig(**said))
        except ValidationError as error:
            first = error.errors()[0]
            raise NotALake(f"{marker} is damaged at {first['loc'][0]}: {first['msg']}") from None

    @classmethod
    def make(cls, url: str, buckets: int = DEFAULT_BUCKETS, hosts: dict[str, str] | None = None) -> "Lake":
        """Make a lake in an empty place, after a race has shown that the store keeps concurrent commits."""
        if not storage.is_empty(url, but=PROBE_PREFIX):
            raise NotALake(f"{url} is not empty and is no lake. Name an empty folder with --lake")
        config = LakeConfig(buckets=buckets, made=datetime.now(UTC), hosts=hosts or {})
        try:
            probe_store(url)
            lake = cls(url, config)
            lake.save()
        except (*storage.UNREACHABLE, DeltaError) as error:
            raise LakeNotWritable(f"{url} can't be written: {error}. Name another place with --lake") from None
        return lake

    @classmethod
    def open_or_make(cls, url: str, buckets: int = DEFAULT_BUCKETS) -> "Lake":
        try:
            return cls.open(url)
        except LakeNotFound:
            return cls.make(url, buckets)

    def save(self) -> None:
        storage.write(storage.join(self.url, MARKER), self.config.model_dump_json(indent=2).encode())

    def allow_host(self, name: str, address: str) -> None:
        """Let a named host be fetched from a private address."""
        self.config.hosts[name] = address
        self.save()

    def snapshot(self) -> "Lake":
        """The lake to read from as it is now."""
        return ReadOnlySnapshot(self.url, self.config)

    @property
    def buckets(self) -> range:
        return range(self.config.buckets)

    def table_url(self, name: str) -> str:
        return storage.join(self.url, name)

    def table_names(self) -> list[str]:
        """The names of all tables, those of a kind under its name: scores/picture-facts-1."""
        names = []
        for name in storage.folders(self.url):
            inside = storage.folders(self.table_url(name))
            if DELTA_LOG in inside:
                names.append(name)
            else:
                names += [
                    f"{name}/{one}" for one in inside if DELTA_LOG in storage.folders(self.table_url(f"{name}/{one}"))
                ]
        return names

    def find(self, name: str, version: int | None = None, key: Sequence[str] = ("id",)) -> Table | None:
        return Table.open(name, self.table_url(name), version, key)

    def table(self, name: str, version: int | None = None) -> Table:
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
        """The table, with every column of the schema; made if it was not there."""
        table = self.find(name, key=key) or Table.make(name, self.table_url(name), schema, key)
        table.add_missing_columns(schema)
        return table


@dataclass(frozen=True)
class ReadOnlySnapshot(Lake):
    """A lake whose tables are opened once, however often they are asked for, and stay as they were then."""

    opened: dict[tuple[str, int | None], Table] = field(default_factory=dict)

    def snapshot(self) -> Lake:
        return self

    def find(self, name: str, version: int | None = None, key: Sequence[str] = ("id",)) -> Table | None:
        if (name, version) not in self.opened:
            found = super().find(name, version, key)
            if found is None:
                return None
            self.opened[name, version] = found
        return self.opened[name, version]


def probe_store(url: str) -> None:
    """Race a few writers on a table of their own. A store without an atomic put-if-absent loses commits without a word.

    Asking once is not enough: some stores answer a single conditional put rightly and let two racing ones both win.
    """
    place = storage.join(url, PROBE_PREFIX + uuid.uuid4().hex)
    start = threading.Barrier(PROBE_WRITERS)

    def commit(writer: int) -> None:
        table = Table.open("probe", place)
        assert table is not None
        start.wait()
        for number in range(PROBE_COMMITS):
            table.append([write_file(place, 0, pa.table({"id": [f"{writer}-{number}"]}))])

    storage.write(storage.join(place, ".writable"), b"")
    try:
        made = Table.make("probe", place, pa.schema({"id": pa.string()}))
        with ThreadPoolExecutor(PROBE_WRITERS) as pool:
            list(pool.map(commit, range(PROBE_WRITERS)))
        made.refresh()
        written, kept = PROBE_WRITERS * PROBE_COMMITS, made.count_rows()
    finally:
        storage.remove(place)
    if kept < written:
        raise UnsafeStore(
            f"the store of {url} lost {written - kept} of {written} concurrent commits: "
            "it has no atomic conditional put (If-None-Match). Use another store; "
            "AWS S3, MinIO, Ceph and Cloudflare R2 have it"
        )
