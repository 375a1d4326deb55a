"""Fetch the pictures of pending pairs, a shard at a time: `images` gets what came, `fetches` every attempt.

A pair is pending until it has a picture, failed for good, or has failed `attempts` times; after a transient failure it
waits (`retry_hours`, doubling) before it is pending again. Fetching and decoding overlap: one event loop fetches, a few
threads decode. What is safe to fetch lies in fetch.py, what is a picture in picture.py; pictures that came along with
their pairs are read where they lie (carried.py).
"""

import asyncio
import atexit
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pydantic import Field

from data.carried import read_carried
from data.engine import workers_beside
from data.fetch import Fetched, Fetcher, FetchSettings
from data.lake import Lake
from data.pairs import FETCHES, IMAGES, PAIRS
from data.picture import Picture, PictureError, PictureSettings, prepare
from data.stage import Shard, Written, query
from data.table import Table, write_file

DECODERS = 1  # threads a worker beside its event loop; more of them only took turns on the cores (docs/log.md)


class DownloadSettings(FetchSettings, PictureSettings):
    """How pictures are fetched, and as what they are kept."""

    attempts: int = Field(3, ge=1, description="builds that try a pair whose failures are transient")
    retry_hours: float = Field(6.0, ge=0, description="until the second attempt; doubles with each")


Got = tuple[Fetched, Picture | PictureError | None]

PENDING = """
    WITH last AS (SELECT id, max(attempt) AS attempt, arg_max(retry_after, attempt) AS retry_after,
                         arg_max(status, attempt) AS status FROM fetches GROUP BY id)
    SELECT pairs.id, url, caption, coalesce(last.attempt, 0) AS attempt, extra->'$._at' AS place
    FROM pairs ANTI JOIN images USING (id) LEFT JOIN last USING (id)
    WHERE last.id IS NULL OR last.status = 'ok' OR last.retry_after <= '{now}'
    ORDER BY coalesce(place->>'$.tar', place->>'$.parquet'),
             coalesce((place->>'$.offset')::BIGINT, (place->>'$.row_group')::BIGINT), pairs.id
"""


@dataclass(frozen=True)
class Download:
    """The stage. `pairs` → `images`, `fetches`."""

    lake: Lake
    settings: DownloadSettings
    name: str = "download"
    leads: bool = True

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make("images", IMAGES), lake.table_or_make("fetches", FETCHES, ("id", "attempt"))]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        images, fetches = outputs
        pairs = lake.table_or_make("pairs", PAIRS)
        return query(
            PENDING.format(now=datetime.now(UTC).isoformat()),
            pairs=pairs.dataset(bucket),
            images=images.dataset(bucket),
            fetches=fetches.dataset(bucket),
        )

    def work(self, shard: Shard) -> Written:
        pictures, attempts = [], []
        for pair, (fetched, picture) in self._got(shard.rows.to_pylist()):
            attempts.append(self._attempt(pair, fetched, picture))
            if isinstance(picture, Picture):
                pictures.append(_image_row(pair["id"], picture))
        files = {}
        if pictures:
            rows = pa.Table.from_pylist(pictures, IMAGES)
            files["images"] = write_file(self.lake.table_url("images"), shard.bucket, rows)
        rows = pa.Table.from_pylist(attempts, FETCHES)
        files["fetches"] = write_file(self.lake.table_url("fetches"), shard.bucket, rows)
        return Written(shard.rows.num_rows, files)

    def _got(self, pairs: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Got]]:
        """What became of each pair: those whose pictures came along are read, the others fetched."""
        carried, fetched = [pair for pair in pairs if pair["place"]], [pair for pair in pairs if not pair["place"]]
        for number, one in read_carried([json.loads(pair["place"]) for pair in carried], self.settings.max_bytes):
            picture = None if one.body is None else _prepare(one.body, self.settings)
            yield carried[number], (replace(one, body=None), picture)
        if fetched:
            runner, fetcher, threads = _tools(self.settings, tuple(self.lake.config.hosts.items()))
            got = runner.run(self._fetch_all(fetcher, threads, [pair["url"] for pair in fetched]))
            yield from zip(fetched, got, strict=True)

    async def _fetch_all(self, fetcher: Fetcher, threads: ThreadPoolExecutor, urls: list[str]) -> list[Got]:
        loop = asyncio.get_running_loop()

        async def one(url: str) -> Got:
            async with fetcher.fetching(url) as fetched:
                if fetched.body is None:
                    return fetched, None
                picture = await loop.run_in_executor(threads, _prepare, fetched.body, self.settings)
                return replace(fetched, body=None), picture

        return await asyncio.gather(*map(one, urls))

    def _attempt(
        self, pair: dict[str, Any], fetched: Fetched, picture: Picture | PictureError | None
    ) -> dict[str, Any]:
        at, attempt = datetime.now(UTC), pair["attempt"] + 1
        wait = timedelta(hours=self.settings.retry_hours * 2 ** (attempt - 1))
        again = fetched.transient and attempt < self.settings.attempts
        broken = isinstance(picture, PictureError)
        return {
            "id": pair["id"],
            "attempt": attempt,
            "at": at,
            "status": picture.status if isinstance(picture, PictureError) else fetched.status,
            "error": str(picture) if broken else fetched.error,
            "transient": fetched.transient,
            "retry_after": at + wait if again else None,
            "http_status": fetched.http_status,
            "final_url": fetched.final_url,
            "etag": fetched.etag,
            "last_modified": fetched.last_modified,
        }


@lru_cache(maxsize=1)
def _tools(
    settings: DownloadSettings, hosts: tuple[tuple[str, str], ...]
) -> tuple[asyncio.Runner, Fetcher, ThreadPoolExecutor]:
    """What a worker keeps from shard to shard: its event loop, connections, robots.txt files and decoding threads."""

    async def open_fetcher() -> Fetcher:
        return await Fetcher(settings, dict(hosts), workers_beside()).__aenter__()

    runner = asyncio.Runner()
    fetcher = runner.run(open_fetcher())
    threads = ThreadPoolExecutor(DECODERS, "decode")

    def close() -> None:
        runner.run(fetcher.__aexit__(None, None, None))
        runner.close()

    atexit.register(close)
    return runner, fetcher, threads


def _prepare(body: bytes, settings: PictureSettings) -> Picture | PictureError:
    try:
        return prepare(body, settings)
    except PictureError as error:
        return error


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
