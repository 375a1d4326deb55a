"""Which pairs are to be asked now: those never asked, failures whose wait is over, and pictures that have become old.

When other bytes lie at a URL, they become a pair of their own that `replaces` the one before; the attempt that found
them names it in `replaced_by`. So of all that a URL and caption have ever led to one pair is current: the one that came
last. Bytes that were there before come back under the id that they had.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data.lake.sql import query
from data.lake.table import Table

UNASKED = 0.1  # of an attempt: a pair whose host rests was not asked, but one that never stops resting comes to an end

# When which pair took the place of which. Two builds at once may replace one pair by different bytes: the later counts.
EVENTS = """
    WITH heirs AS MATERIALIZED (SELECT id, replaces, first_seen FROM pairs WHERE replaces IS NOT NULL)
    SELECT replaces AS id, id AS came, first_seen AS at,
           NULL::VARCHAR AS etag, NULL::VARCHAR AS last_modified, NULL::VARCHAR AS final_url FROM heirs
    UNION ALL
    SELECT one.id, other.id, other.first_seen, NULL, NULL, NULL FROM heirs one JOIN heirs other USING (replaces)
    WHERE (one.first_seen, one.id) < (other.first_seen, other.id)
    UNION ALL
    SELECT id, replaced_by, fetches.at, etag, last_modified, final_url FROM fetches WHERE replaced_by IS NOT NULL
"""

# Pictures that came along lie side by side, and are read so.
BY_PLACE = """
    coalesce(place->>'$.tar', place->>'$.parquet'),
    coalesce((place->>'$.offset')::BIGINT, (place->>'$.row_group')::BIGINT), id
"""

NO_EVENTS = pa.table(
    {
        name: pa.array([], pa.timestamp("us", tz="UTC") if name == "at" else pa.string())
        for name in ("id", "came", "at", "etag", "last_modified", "final_url")
    }
)

# Who is not current, and what took its place.
REPLACED = """
    SELECT went.id, went.by
    FROM (SELECT id, max(events.at) AS at, arg_max(came, events.at) AS by FROM events GROUP BY id) went
    LEFT JOIN (SELECT came AS id, max(events.at) AS at FROM events GROUP BY came) back USING (id)
    WHERE back.at IS NULL OR went.at >= back.at
"""

# `seen`: the last answer with the picture; `tried`: the last attempt, and how many failed since. DuckDB's arg_max
# passes over rows whose value is null, which a struct never is.
TRIED = f"""
    WITH seen AS (
        SELECT id, max(one.at) AS at,
               arg_max(struct_pack(etag, last_modified, final_url), one.at)
                   FILTER (WHERE final_url IS NOT NULL) AS answer
        FROM (
            SELECT id, fetches.at, etag, last_modified, final_url FROM fetches WHERE status IN ('ok', 'unchanged')
            UNION ALL SELECT came, events.at, etag, last_modified, final_url FROM events) one
        GROUP BY id),
    tried AS (
        SELECT fetches.id,
               arg_max(struct_pack(at := fetches.at, attempt, status, transient, retry_after), attempt) AS last,
               sum(CASE WHEN status IN ('rate_limited', 'server_error') AND http_status IS NULL
                        THEN {UNASKED} ELSE 1 END)
                   FILTER (WHERE seen.at IS NULL OR fetches.at > seen.at) AS failures
        FROM fetches LEFT JOIN seen USING (id) GROUP BY fetches.id)
"""

NEW = """
    SELECT pairs.id AS id, url, caption, source, extra, pairs.sha256 AS sha256, replaces,
           coalesce(last.attempt, 0) AS attempt, coalesce(failures, 0)::DOUBLE AS failures,
           NULL::VARCHAR AS picture, NULL::VARCHAR AS etag, NULL::VARCHAR AS last_modified, NULL::VARCHAR AS final_url,
           extra->'$._at' AS place
    FROM pairs ANTI JOIN images USING (id) LEFT JOIN tried USING (id)
    WHERE tried.id IS NULL OR last.status IN ('ok', 'unchanged') OR last.retry_after <= '{now}'
"""

OLD = """
    SELECT pairs.id AS id, url, caption, source, extra, pairs.sha256 AS sha256, replaces,
           coalesce(last.attempt, 0) AS attempt, coalesce(failures, 0)::DOUBLE AS failures,
           images.sha256 AS picture, answer.etag, answer.last_modified, answer.final_url, NULL AS place
    FROM pairs JOIN images USING (id) LEFT JOIN tried USING (id) LEFT JOIN seen USING (id)
    WHERE pairs.id NOT IN (SELECT id FROM replaced) AND url ILIKE 'http%' AND (extra->'$._at') IS NULL AND
          CASE WHEN last.at > coalesce(seen.at, first_seen)
               THEN last.retry_after <= '{now}' OR (last.transient AND last.at <= '{before}')
               ELSE coalesce(seen.at, first_seen) <= '{before}' END
"""

KNOWN = "SELECT url, caption, list(id) AS known FROM pairs WHERE replaces IS NOT NULL GROUP BY ALL"


def due(
    pairs: Table, images: Table, fetches: Table, bucket: int, now: datetime, refetch_days: float | None
) -> pa.Table:
    """The pairs of a bucket that are to be asked. `picture` is the hash of the bytes that a pair has, `known` the ids
    that other bytes at its URL have had.
    """
    events, sql, before = NO_EVENTS, NEW, now
    if refetch_days is not None and min(pairs.version, fetches.version) >= 0:
        events, before = _events(*_state(pairs), *_state(fetches)), now - timedelta(days=refetch_days)
        sql = f"{NEW} UNION ALL BY NAME {OLD}"
    asked = sql.format(now=now.isoformat(), before=before.isoformat())
    rows = query(
        f"{TRIED}, replaced AS ({REPLACED}) {asked} ORDER BY {BY_PLACE}",
        pairs=pairs.dataset(bucket),
        images=images.dataset(bucket),
        fetches=fetches.dataset(bucket),
        events=events,
    )
    if rows["picture"].null_count == rows["replaces"].null_count == rows.num_rows:
        return rows.append_column("known", pa.nulls(rows.num_rows, pa.list_(pa.string())))
    return query(
        f"SELECT rows.*, known FROM rows LEFT JOIN known USING (url, caption) ORDER BY {BY_PLACE}",
        rows=rows,
        known=_known(*_state(pairs)),
    )


def _state(table: Table) -> tuple[str, str, int]:
    return table.name, table.url, table.version


@lru_cache(maxsize=1)
def _events(*states: Any) -> pa.Table:
    """All events of a lake: few, and the same for every bucket of a plan."""
    return query(EVENTS, pairs=_at(*states[:3]), fetches=_at(*states[3:]))


@lru_cache(maxsize=1)
def _known(*pairs: Any) -> pa.Table:
    return query(KNOWN, pairs=_at(*pairs))


def _at(name: str, url: str, version: int) -> pads.Dataset:
    table = Table.open(name, url, version)
    assert table is not None
    return table.dataset()
