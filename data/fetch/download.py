"""The download stage. It fetches the pictures of pending pairs into `images`, and records every attempt in `fetches`.

A pair is pending until it has a picture, has failed permanently, or has failed `attempts` times. After a transient
failure the pair waits, for a time that depends on the kind of failure. With `refetch_days`, a picture of that age is
requested again. Changed bytes become the picture of a new pair, and the old pair keeps its picture (due.py).

One event loop fetches while threads decode. fetcher.py fetches safely, and guard.py decides whether a picture may be
kept. Pictures that a source stores together with its pairs are read from the source (carried.py).
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
from data.fetch.due import due_pairs
from data.fetch.fetcher import Fetcher, FetchResult, FetchSettings, Validators
from data.fetch.guard import Guard, expected_sha256
from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, PAIRS, bucket_of, changed_pair_id
from data.lake.shard_file import ShardFile, write_file
from data.lake.table import Table
from data.pictures.prepare import Picture, PictureSettings

DECODE_THREADS = 1  # per worker, besides its event loop; more did not help, as they share the same cores (docs/log.md)
MAX_TEXT = 500  # the most characters of a server's text that are kept


class DownloadSettings(FetchSettings, PictureSettings):
    """Settings for fetching pictures, and for the form in which they are kept."""

    attempts: int = Field(3, ge=1, description="attempts, each in another build, before transient failures are final")
    retry_hours: float = Field(6.0, ge=0, description="hours before the second attempt; each later wait is twice that")
    retry_hours_server: float = Field(1.0, ge=0, description="the same after 5xx and 429 without Retry-After")
    retry_hours_dns: float = Field(24.0, ge=0, description="the same where the host name has no address")
    refetch_days: float | None = Field(
        None, ge=0, description="age in days at which a picture is requested again; never if not set"
    )
    forbidden: tuple[str, ...] = Field(
        (), description="hash lists of material that nobody may possess, see data/fetch/forbidden.py"
    )
    forbidden_distance: int = Field(
        4, ge=0, le=16, description="bits of 64 in which a perceptual hash may differ from a listed one and match it"
    )

    def wait(self, id: str, status: str, failures: float) -> timedelta:
        """Return the time to wait after a transient failure before the next attempt.

        Args:
            id: the pair's id. It lengthens the wait by up to a half, so that retries for a dead host are spread out.
            status: the kind of failure.
            failures: the number of attempts that have failed. Each failure doubles the wait.
        """
        hours = {
            "dns": self.retry_hours_dns,
            "server_error": self.retry_hours_server,
            "rate_limited": self.retry_hours_server,
        }
        jitter = 1 + int(id[-8:], 16) / 2**33
        return timedelta(hours=hours.get(status, self.retry_hours) * 2 ** (max(failures, 1) - 1) * jitter)


Outcome = tuple[FetchResult, Picture | None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Download:
    """The stage that fetches the pictures of `pairs`. It appends to `images` and `fetches`.

    If a picture has changed, the stage also appends the new pair to `pairs`.
    """

    lake: Lake
    settings: DownloadSettings
    name: str = "download"
    ordered_commits: bool = True

    def outputs(self, lake: Lake) -> list[Table]:
        """Return the tables that the stage appends to, in the order of commits: `pairs`, `images` and `fetches`."""
        pairs, images = lake.table_or_make("pairs", PAIRS), lake.table_or_make("images", IMAGES)
        return [pairs, images, lake.table_or_make("fetches", FETCHES, ("id", "attempt"))]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pairs of a bucket that are due now. See `due_pairs`."""
        pairs, images, fetches = outputs
        return due_pairs(pairs, images, fetches, bucket, datetime.now(UTC), self.settings.refetch_days)

    def work(self, shard: Shard) -> ShardResult:
        """Fetch a shard's pictures and write its files."""
        rows = _ShardRows()
        for pair, (result, picture) in self._outcomes(shard.rows.to_pylist()):
            rows.add(pair, self._attempt(pair, result), picture)
        files = {"fetches": self._write("fetches", shard.bucket, rows.attempts, FETCHES)}
        if rows.images:
            files["images"] = self._write("images", shard.bucket, rows.images, IMAGES)
        elsewhere = {
            "pairs": self._write_by_bucket("pairs", rows.new_pairs, PAIRS),
            "images": self._write_by_bucket("images", rows.new_images, IMAGES),
        }
        return ShardResult(shard.rows.num_rows, files, elsewhere)

    def _write(self, table: str, bucket: int, rows: list[Row], schema: pa.Schema) -> ShardFile:
        return write_file(self.lake.table_url(table), bucket, pa.Table.from_pylist(rows, schema))

    def _write_by_bucket(self, table: str, rows: dict[str, Row], schema: pa.Schema) -> list[ShardFile]:
        """Write rows, keyed by id, to the buckets of their ids."""
        by_bucket: dict[int, list[Row]] = {}
        for id, row in rows.items():
            by_bucket.setdefault(bucket_of(id, self.lake.config.buckets), []).append(row)
        return [self._write(table, bucket, bucket_rows, schema) for bucket, bucket_rows in by_bucket.items()]

    def _outcomes(self, pairs: list[Row]) -> Iterator[tuple[Row, Outcome]]:
        """Yield the outcome of each pair. Pictures stored together with their pairs are read, the others fetched."""
        guard = Guard.of(self.lake, self.settings.forbidden, self.settings.forbidden_distance)
        carried = [pair for pair in pairs if pair["location"]]
        to_fetch = [pair for pair in pairs if not pair["location"]]
        locations = [json.loads(pair["location"]) for pair in carried]
        for index, result in read_carried(locations, self.settings.max_bytes):
            pair = carried[index]
            if guard.blocklist.has_pair(pair["id"]):
                yield pair, (_blocked(pair), None)
            elif result.body is None:
                yield pair, (result, None)
            else:
                status, error, picture = guard.check(pair, result.body, self.settings)
                yield pair, (replace(result, body=None, status=status, error=error), picture)
        if to_fetch:
            runner, fetcher, threads = _worker_tools(self.settings, tuple(self.lake.config.hosts.items()))
            fetcher.block_reason = guard.blocklist.block_reason
            outcomes = runner.run(self._fetch_all(fetcher, threads, guard, to_fetch))
            yield from zip(to_fetch, outcomes, strict=True)

    async def _fetch_all(
        self, fetcher: Fetcher, threads: ThreadPoolExecutor, guard: Guard, pairs: list[Row]
    ) -> list[Outcome]:
        loop = asyncio.get_running_loop()

        async def fetch_pair(pair: Row) -> Outcome:
            if guard.blocklist.has_pair(pair["id"]):
                return _blocked(pair), None
            validators = None
            if pair["final_url"]:
                validators = Validators(pair["final_url"], pair["etag"], pair["last_modified"])
            async with fetcher.fetching(pair["url"], validators) as result:
                if result.body is None:
                    return result, None
                status, error, picture = await loop.run_in_executor(
                    threads, guard.check, pair, result.body, self.settings
                )
                return replace(result, body=None, status=status, error=error), picture

        return await asyncio.gather(*map(fetch_pair, pairs))

    def _attempt(self, pair: Row, result: FetchResult) -> Row:
        """Make the row of `fetches` for one outcome."""
        now, failures = datetime.now(UTC), pair["failures"] + 1
        retry = result.transient and failures < self.settings.attempts
        if result.retry_after is None:
            wait = self.settings.wait(pair["id"], result.status, failures)
        else:
            wait = timedelta(seconds=result.retry_after)
        has_picture = result.status in ("ok", "unchanged")  # else no ETag is kept: it may be a forbidden file's hash
        return {
            "id": pair["id"],
            "attempt": pair["attempt"] + 1,
            "at": now,
            "status": result.status,
            "error": _clean(result.error),
            "transient": result.transient,
            "retry_after": now + wait if retry else None,
            "http_status": result.http_status,
            "final_url": result.final_url,
            "etag": _clean(result.etag) if has_picture else None,
            "last_modified": _clean(result.last_modified) if has_picture else None,
        }


@dataclass
class _ShardRows:
    """The rows that a shard adds. Rows of changed pictures are keyed by their new ids, which may be in any bucket."""

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
        attempt |= {"status": "replaced", "replaced_by": id, "error": f"the bytes have changed: they are pair {id} now"}
        if id not in (pair["earlier_ids"] or ()):  # earlier bytes of this URL have their pair and picture already
            inherited = {name: pair[name] for name in ("url", "caption", "source", "extra")}
            new = {"first_seen": attempt["at"], "sha256": picture.sha256, "replaces": pair["id"]}
            self.new_pairs[id] = {"id": id, **inherited, **new}
            self.new_images[id] = _image_row(id, picture)


@lru_cache(maxsize=1)
def _worker_tools(
    settings: DownloadSettings, hosts: tuple[tuple[str, str], ...]
) -> tuple[asyncio.Runner, Fetcher, ThreadPoolExecutor]:
    """Make the objects that a worker keeps between shards: event loop, connections, robots.txt cache and threads."""

    async def open_fetcher() -> Fetcher:
        return await Fetcher(settings, dict(hosts), worker_count()).__aenter__()

    runner = asyncio.Runner()
    fetcher = runner.run(open_fetcher())
    threads = ThreadPoolExecutor(DECODE_THREADS, "decode")

    def close() -> None:
        runner.run(fetcher.__aexit__(None, None, None))
        runner.close()

    atexit.register(close)
    return runner, fetcher, threads


def _blocked(pair: Row) -> FetchResult:
    return FetchResult(pair["url"], "blocked", "the blocklist names the pair", False)


def _image_row(id: str, picture: Picture) -> Row:
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
    """Convert a server's text to a form that a table can store: short, valid Unicode."""
    return text and text[:MAX_TEXT].encode(errors="replace").decode()
