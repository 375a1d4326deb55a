"""The table `blocklist`: what must not enter the lake again. Workers check it before they fetch and before they keep.

The list must not itself store what was forgotten, so a URL is kept as its SHA-256 alone; a pair's id and the SHA-256 of
bytes are hashes already. Domains are plain: people have to read and edit them, and a domain identifies no picture.
Perceptual hashes are plain: a digest can't be compared by similarity, and no picture can be recovered from them.
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

from data.fetch.address import matching_domain
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
HEX_DIGITS = {"sha256": 64, "pair": 32, "phash": 16}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to block, as a person writes it.

    Args:
        kind: what `target` is.
        target: a URL, a domain (its subdomains are blocked too), or hex digits.
        reason: why, for whoever reads the list later.

    Raises:
        ValueError: an unknown kind, or a target that is not a hash of that kind.
    """

    kind: Kind
    target: str
    reason: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} can't be blocked; the kinds are {', '.join(get_args(Kind))}")
        digits = HEX_DIGITS.get(self.kind)
        if digits and not re.fullmatch(f"[0-9a-f]{{{digits}}}", self.target.strip().lower()):
            raise ValueError(f"{self.target!r} is not a {self.kind}, which has {digits} hex digits")

    @property
    def value(self) -> str:
        """What the table stores of the target: of a URL its digest, of anything else its usual spelling."""
        target = self.target.strip().lower()
        if self.kind == "domain":
            return URL.build(scheme="http", host=target.removeprefix("*").strip(".")).raw_host or target
        return url_digest(self.target) if self.kind == "url" else target

    @property
    def id(self) -> str:
        """The row's id: a digest of kind and value, so that nothing is blocked twice."""
        return hashlib.sha256(f"{self.kind}\0{self.value}".encode()).hexdigest()[:32]


class Blocklist:
    """One version of the table, in memory, for a worker to check against.

    Args:
        rows: kind and value of its entries.
        distance: bits in which a perceptual hash may differ from an entry and still match it.

    Attributes:
        perceptual: the entries that are perceptual hashes.
    """

    def __init__(self, rows: pa.Table, distance: int) -> None:
        values: dict[str, list[str]] = {kind: [] for kind in get_args(Kind)}
        for kind, value in zip(rows["kind"].to_pylist(), rows["value"].to_pylist(), strict=True):
            values[kind].append(value)
        self._domains = frozenset(values["domain"])
        self._urls, self._bodies = DigestSet.from_hex(32, values["url"]), DigestSet.from_hex(32, values["sha256"])
        self._pairs = DigestSet.from_hex(16, values["pair"])
        self.perceptual = PerceptualHashSet.from_hex(values["phash"], distance)

    def has_pair(self, id: str) -> bool:
        """Whether a pair is blocked by its id."""
        return bool(len(self._pairs)) and bytes.fromhex(id) in self._pairs

    def has_body(self, body: bytes) -> bool:
        """Whether a file's bytes are blocked by their SHA-256."""
        return bool(len(self._bodies)) and hashlib.sha256(body).digest() in self._bodies

    def block_reason(self, url: URL) -> str | None:
        """Why a URL must not be requested; None if neither it nor its domain is blocked."""
        domain = matching_domain(url.raw_host or "", self._domains)
        if domain:
            return f"the blocklist names the domain {domain}"
        if len(self._urls) and bytes.fromhex(url_digest(url)) in self._urls:
            return "the blocklist names the URL"
        return None


def url_digest(url: str | URL) -> str:
    """The SHA-256 of what a URL requests, whatever its scheme, spelling, credentials and fragment."""
    try:
        parsed = URL(url.strip()) if isinstance(url, str) else url
        port = "" if parsed.is_default_port() or parsed.explicit_port is None else f":{parsed.explicit_port}"
        resource = f"{(parsed.raw_host or '').lower().rstrip('.')}{port}{parsed.raw_path_qs}"
    except ValueError:
        resource = str(url).strip()
    return hashlib.sha256(resource.encode(errors="surrogatepass")).hexdigest()


def add(lake: Lake, entries: Iterable[Entry]) -> int:
    """Add entries to a lake's blocklist; those that are there already are skipped. Returns how many were new.

    Example:
        add(lake, [Entry("domain", "example.org", "asked us by e-mail to stop")])
    """
    now = datetime.now(UTC)
    rows = [
        {"id": entry.id, "kind": entry.kind, "value": entry.value, "reason": entry.reason, "at": now}
        for entry in entries
    ]
    return append_missing_rows(lake, "blocklist", BLOCKLIST, rows)


def read_blocklist(lake: Lake, distance: int) -> Blocklist:
    """The newest blocklist of a lake; cached in the process until the table has a new version.

    Args:
        lake: the lake.
        distance: bits in which a perceptual hash may differ from an entry and still match it.
    """
    table = lake.find("blocklist")
    return _read(lake.table_url("blocklist"), table.version if table else None, distance)


@lru_cache(maxsize=1)
def _read(url: str, version: int | None, distance: int) -> Blocklist:
    table = None if version is None else Table.open("blocklist", url, version)
    rows = BLOCKLIST.empty_table() if table is None else table.dataset().to_table(columns=["kind", "value"])
    return Blocklist(rows, distance)
