"""Fetch the pictures of pending pairs, a shard at a time: `images` gets what came, `fetches` every attempt.

A pair is pending until it has a picture, failed for good, or has failed `attempts` times; after a transient failure it
waits, by the class of the failure, before it is pending again. With `refetch_days` it is asked again when its picture
is that old; other bytes are a new pair, never another picture of the same one (due.py). Fetching and decoding overlap:
one event loop fetches, a few threads decode. What is safe to fetch lies in fetch.py, what of it is kept in guard.py;
pictures that came along with their pairs are read where they lie (carried.py).
"""

import asyncio
import atexit
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pydantic import Field

from data.engine.pool import worker_count
from data.engine.stage import Shard, ShardResult
from data.fetch.carried import read_carried
from data.fetch.due import due
from data.fetch.fetcher import Before, Fetched, Fetcher, FetchSettings
from data.fetch.guard import Guard, expected_sha256
from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, PAIRS, bucket_of, changed_pair_id
from data.lake.table import ShardFile, Table, write_file
from data.pictures.prepare import Picture, PictureSettings

DECODERS = 1  # threads a worker beside its event loop; more of them only took turns on the cores (docs/log.md)
LONGEST_TEXT = 500  # characters of anything that an origin said


class DownloadSettings(FetchSettings, PictureSettings):
    """How pictures are fetched, and as what they are kept."""

    attempts: int = Field(3, ge=1, description="builds that try a pair whose failures are transient")
    retry_hours: float = Field(6.0, ge=0, description="until the second attempt after a timeout or a broken connection")
    retry_hours_server: float = Field(1.0, ge=0, description="the same after 5xx and 429 that don't say Retry-After")
    retry_hours_dns: float = Field(
        24.0, ge=0, description="the same where the name has no address; all double each time"
    )
    refetch_days: float | None = Field(
        None, ge=0, description="age at which a picture is asked for again; never if not set"
    )
    forbidden: tuple[str, ...] = Field(
        (), description="files of hashes of what nobody may hold, see data/fetch/forbidden.py"
    )
    forbidden_distance: int = Field(4, ge=0, le=16, description="bits of 64 in which perceptual hashes may differ")

    def wait(self, id: str, status: str, failures: float) -> timedelta:
        """How long to wait after a failure; up to half as much again by id, so that a dead host's pairs disperse."""
        hours = {"dns": self.retry_hours_dns, "server_error": self.retry_hours_server}
        hours["rate_limited"] = self.retry_hours_server
        spread = 1 + int(id[-8:], 16) / 2**33
        return timedelta(hours=hours.get(status, self.retry_hours) * 2 ** (max(failures, 1) - 1) * spread)


Got = tuple[Fetched, Picture | None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Download:
    """The stage. `pairs` → `images`, `fetches`; and `pairs`, where a picture changed."""

    lake: Lake
    settings: DownloadSettings
    name: str = "download"
    ordered_commits: bool = True

    def outputs(self, lake: Lake) -> list[Table]:
        pairs, images = lake.table_or_make("pairs", PAIRS), lake.table_or_make("images", IMAGES)
        return [pairs, images, lake.table_or_make("fetches", FETCHES, ("id", "attempt"))]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        pairs, images, fetches = outputs
        return due(pairs, images, fetches, bucket, datetime.now(UTC), self.settings.refetch_days)

    def work(self, shard: Shard) -> ShardResult:
        found = _Found()
        for pair, (fetched, picture) in self._got(shard.rows.to_pylist()):
            found.add(pair, self._attempt(pair, fetched), picture)
        files = {"fetches": self._write("fetches", shard.bucket, found.attempts, FETCHES)}
        if found.images:
            files["images"] = self._write("images", shard.bucket, found.images, IMAGES)
        elsewhere = {
            "pairs": self._write_each("pairs", found.new_pairs, PAIRS),
            "images": self._write_each("images", found.new_images, IMAGES),
        }
        return ShardResult(shard.rows.num_rows, files, elsewhere)

    def _write(self, table: str, bucket: int, rows: list[Row], schema: pa.Schema) -> ShardFile:
        return write_file(self.lake.table_url(table), bucket, pa.Table.from_pylist(rows, schema))

    def _write_each(self, table: str, rows: dict[str, Row], schema: pa.Schema) -> list[ShardFile]:
        """Write rows by id to the buckets that their ids name."""
        of: dict[int, list[Row]] = {}
        for id, row in rows.items():
            of.setdefault(bucket_of(id, self.lake.config.buckets), []).append(row)
        return [self._write(table, bucket, part, schema) for bucket, part in of.items()]

    def _got(self, pairs: list[Row]) -> Iterator[tuple[Row, Got]]:
        """What became of each pair: those whose pictures came along are read, the others fetched."""
        guard = Guard.of(self.lake, self.settings.forbidden, self.settings.forbidden_distance)
        carried, asked = [pair for pair in pairs if pair["place"]], [pair for pair in pairs if not pair["place"]]
        for number, one in read_carried([json.loads(pair["place"]) for pair in carried], self.settings.max_bytes):
            pair = carried[number]
            if guard.blocklist.names_pair(pair["id"]):
                yield pair, (_blocked(pair), None)
            elif one.body is None:
                yield pair, (one, None)
            else:
                status, error, picture = guard.look(pair, one.body, self.settings)
                yield pair, (replace(one, body=None, status=status, error=error), picture)
        if asked:
            runner, fetcher, threads = _tools(self.settings, tuple(self.lake.config.hosts.items()))
            fetcher.blocked = guard.blocklist.why_not
            yield from zip(asked, runner.run(self._fetch_all(fetcher, threads, guard, asked)), strict=True)

    async def _fetch_all(
        self, fetcher: Fetcher, threads: ThreadPoolExecutor, guard: Guard, pairs: list[Row]
    ) -> list[Got]:
        loop = asyncio.get_running_loop()

        async def one(pair: Row) -> Got:
            if guard.blocklist.names_pair(pair["id"]):
                return _blocked(pair), None
            before = Before(pair["final_url"], pair["etag"], pair["last_modified"]) if pair["final_url"] else None
            async with fetcher.fetching(pair["url"], before) as fetched:
                if fetched.body is None:
                    return fetched, None
                status, error, picture = await loop.run_in_executor(
                    threads, guard.look, pair, fetched.body, self.settings
                )
                return replace(fetched, body=None, status=status, error=error), picture

        return await asyncio.gather(*map(one, pairs))

    def _attempt(self, pair: Row, fetched: Fetched) -> Row:
        at, failures = datetime.now(UTC), pair["failures"] + 1
        again = fetched.transient and failures < self.settings.attempts
        said, seen = fetched.retry_after, fetched.status in ("ok", "unchanged")  # a tag may be a forbidden file's hash
        wait = self.settings.wait(pair["id"], fetched.status, failures) if said is None else timedelta(seconds=said)
        return {
            "id": pair["id"],
            "attempt": pair["attempt"] + 1,
            "at": at,
            "status": fetched.status,
            "error": _clean(fetched.error),
            "transient": fetched.transient,
            "retry_after": at + wait if again else None,
            "http_status": fetched.http_status,
            "final_url": fetched.final_url,
            "etag": _clean(fetched.etag) if seen else None,
            "last_modified": _clean(fetched.last_modified) if seen else None,
        }


@dataclass
class _Found:
    """The rows of a shard; those of pictures that changed go by their new ids, which belong to any bucket."""

    attempts: list[Row] = field(default_factory=list)
    images: list[Row] = field(default_factory=list)
    new_pairs: dict[str, Row] = field(default_factory=dict)
    new_images: dict[str, Row] = field(default_factory=dict)

    def add(self, pair: Row, attempt: Row, picture: Picture | None) -> None:
        self.attempts.append(attempt)
        if picture is None:
            return
        expected = expected_sha256(pair)
        if expected is None or picture.sha256 == expected:
            self.images.append(_image_row(pair["id"], picture))
            return
        id = changed_pair_id(pair["url"], pair["caption"], picture.sha256)
        attempt |= {"status": "replaced", "replaced_by": id, "error": f"other bytes lie there now: they are pair {id}"}
        if id not in (pair["known"] or ()):  # what was there before has its row and its picture
            same = {name: pair[name] for name in ("url", "caption", "source", "extra")}
            seen = {"first_seen": attempt["at"], "sha256": picture.sha256, "replaces": pair["id"]}
            self.new_pairs[id] = {"id": id, **same, **seen}
            self.new_images[id] = _image_row(id, picture)


@lru_cache(maxsize=1)
def _tools(
    settings: DownloadSettings, hosts: tuple[tuple[str, str], ...]
) -> tuple[asyncio.Runner, Fetcher, ThreadPoolExecutor]:
    """What a worker keeps from shard to shard: its event loop, connections, robots.txt files and decoding threads."""

    async def open_fetcher() -> Fetcher:
        return await Fetcher(settings, dict(hosts), worker_count()).__aenter__()

    runner = asyncio.Runner()
    fetcher = runner.run(open_fetcher())
    threads = ThreadPoolExecutor(DECODERS, "decode")

    def close() -> None:
        runner.run(fetcher.__aexit__(None, None, None))
        runner.close()

    atexit.register(close)
    return runner, fetcher, threads


def _blocked(pair: Row) -> Fetched:
    return Fetched(pair["url"], "blocked", "the blocklist names the pair", False)


def _image_row(id: str, picture: Picture) -> dict[str, Any]:
    return {
        "id": id,
        "image": picture.bytes,
        "format": picture.format,
        "width": picture.width,
        "height": picture.height,
        "original_width": picture.original_width,
        "original_height": picture.original_height,
        "original_bytes": picture.original_bytes,
        "sha256": picture.sha256,
    }


def _clean(text: str | None) -> str | None:
    """What an origin said, fit for a table: not every header is text, and not every one is short."""
    return text and text[:LONGEST_TEXT].encode(errors="replace").decode()
