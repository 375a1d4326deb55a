"""What must not come again: the table `blocklist`, which every worker asks before it fetches and before it keeps.

It must not keep what was forgotten, so a URL is there as its SHA-256 alone; a pair's id and the SHA-256 of bytes are
hashes already. Domains are plain, since people have to read and mend that list and a domain names no picture;
perceptual hashes are, since likeness can't be told from a digest, nor a picture from them.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, get_args

import pyarrow as pa
from yarl import URL

from data.fetch.address import domain_among
from data.lake.append import append_missing_rows
from data.lake.lake import Lake
from data.lake.table import Table
from data.pictures.hash_sets import DigestSet, PerceptualHashSet

Kind = Literal["url", "domain", "sha256", "pair", "phash"]

BLOCKLIST = pa.schema(
    {
        "id": pa.string(),
        "kind": pa.string(),  # url, domain, sha256 (of a body), pair (its id) or phash
        "value": pa.string(),
        "reason": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
    }
)
DIGITS = {"sha256": 64, "pair": 32, "phash": 16}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that must not come again, as people name it."""

    kind: Kind
    what: str
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} can't be blocked; there are {', '.join(get_args(Kind))}")
        digits = DIGITS.get(self.kind)
        if digits and not re.fullmatch(f"[0-9a-f]{{{digits}}}", self.what.strip().lower()):
            raise ValueError(f"{self.what!r} is no {self.kind}: it has {digits} hex digits")

    @property
    def value(self) -> str:
        """What the table holds of it."""
        what = self.what.strip().lower()
        if self.kind == "domain":
            return URL.build(scheme="http", host=what.removeprefix("*").strip(".")).raw_host or what
        return url_digest(self.what) if self.kind == "url" else what

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.kind}\0{self.value}".encode()).hexdigest()[:32]


class Blocklist:
    """The entries of one version of the table, for a worker to ask."""

    def __init__(self, rows: pa.Table, distance: int) -> None:
        of: dict[str, list[str]] = {kind: [] for kind in get_args(Kind)}
        for kind, value in zip(rows["kind"].to_pylist(), rows["value"].to_pylist(), strict=True):
            of[kind].append(value)
        self._domains = frozenset(of["domain"])
        self._urls, self._bodies = DigestSet.from_hex(32, of["url"]), DigestSet.from_hex(32, of["sha256"])
        self._pairs, self.looks = DigestSet.from_hex(16, of["pair"]), PerceptualHashSet.from_hex(of["phash"], distance)

    def names_pair(self, id: str) -> bool:
        return bool(len(self._pairs)) and bytes.fromhex(id) in self._pairs

    def names_body(self, body: bytes) -> bool:
        return bool(len(self._bodies)) and hashlib.sha256(body).digest() in self._bodies

    def why_not(self, url: URL) -> str | None:
        """Why a URL must not be asked."""
        domain = domain_among(url.raw_host or "", self._domains)
        if domain:
            return f"the blocklist names the domain {domain}"
        if len(self._urls) and bytes.fromhex(url_digest(url)) in self._urls:
            return "the blocklist names the URL"
        return None


def url_digest(url: str | URL) -> str:
    """The SHA-256 of what a URL asks for, whatever its scheme, spelling, credentials and fragment."""
    try:
        parsed = URL(url.strip()) if isinstance(url, str) else url
        port = "" if parsed.is_default_port() or parsed.explicit_port is None else f":{parsed.explicit_port}"
        said = f"{(parsed.raw_host or '').lower().rstrip('.')}{port}{parsed.raw_path_qs}"
    except ValueError:
        said = str(url).strip()
    return hashlib.sha256(said.encode(errors="surrogatepass")).hexdigest()


def add(lake: Lake, entries: Iterable[Entry]) -> int:
    """Block what is not blocked yet. Returns how many entries were new."""
    at = datetime.now(UTC)
    rows = [{"id": one.id, "kind": one.kind, "value": one.value, "reason": one.reason, "at": at} for one in entries]
    return append_missing_rows(lake, "blocklist", BLOCKLIST, rows)


def read_blocklist(lake: Lake, distance: int) -> Blocklist:
    """The newest blocklist, read once for each version of the table."""
    table = lake.find("blocklist")
    return _read(lake.table_url("blocklist"), table.version if table else None, distance)


@lru_cache(maxsize=1)
def _read(url: str, version: int | None, distance: int) -> Blocklist:
    table = None if version is None else Table.open("blocklist", url, version)
    rows = BLOCKLIST.empty_table() if table is None else table.dataset().to_table(columns=["kind", "value"])
    return Blocklist(rows, distance)
