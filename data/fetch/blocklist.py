"""The table `blocklist` of URLs, domains, pairs and pictures that must not enter the lake again.

Workers check it before they fetch a picture and before they keep one. The list must not itself store the data that was
forgotten, so only the SHA-256 of a URL is stored. A pair's id and the SHA-256 of a picture's bytes are hashes already.
Domains are stored in plain text: people have to read and edit them, and a domain does not identify a picture.
Perceptual hashes are stored as they are, because their digests can't be compared by similarity. No picture can be
recovered from a perceptual hash.
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
        "kind": pa.string(),  # url, domain, sha256 (of a body), pair (a pair's id) or phash
        "value": pa.string(),
        "reason": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
    }
)
HEX_DIGITS = {"sha256": 64, "pair": 32, "phash": 16}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the blocklist, as a person writes it.

    Args:
        kind: the kind of `target`.
        target: a URL, a domain (its subdomains are blocked too), or hex digits.
        reason: the reason for blocking it, for people who read the list later.

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
        """The value that the table stores: the digest of a URL, or the usual spelling of any other target."""
        target = self.target.strip().lower()
        if self.kind == "domain":
            return URL.build(scheme="http", host=target.removeprefix("*").strip(".")).raw_host or target
        return url_digest(self.target) if self.kind == "url" else target

    @property
    def id(self) -> str:
        """The row's id, a digest of kind and value. So the table can't contain the same entry twice."""
        return hashlib.sha256(f"{self.kind}\0{self.value}".encode()).hexdigest()[:32]


class Blocklist:
    """One version of the blocklist in a worker's memory.

    Args:
        rows: kind and value of the entries.
        distance: the number of bits in which a perceptual hash may differ from an entry and still match it.

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
        """Return whether a pair is blocked by its id."""
        return bool(len(self._pairs)) and bytes.fromhex(id) in self._pairs

    def has_body(self, body: bytes) -> bool:
        """Return whether a file's bytes are blocked by their SHA-256."""
        return bool(len(self._bodies)) and hashlib.sha256(body).digest() in self._bodies

    def block_reason(self, url: URL) -> str | None:
        """Return why a URL must not be requested, or None if neither the URL nor its domain is blocked."""
        domain = matching_domain(url.raw_host or "", self._domains)
        if domain:
            return f"the blocklist names the domain {domain}"
        if len(self._urls) and bytes.fromhex(url_digest(url)) in self._urls:
            return "the blocklist names the URL"
        return None


def url_digest(url: str | URL) -> str:
    """Return the SHA-256 of a URL in a normalised form, without scheme, credentials and fragment."""
    try:
        parsed = URL(url.strip()) if isinstance(url, str) else url
        port = "" if parsed.is_default_port() or parsed.explicit_port is None else f":{parsed.explicit_port}"
        resource = f"{(parsed.raw_host or '').lower().rstrip('.')}{port}{parsed.raw_path_qs}"
    except ValueError:
        resource = str(url).strip()
    return hashlib.sha256(resource.encode(errors="surrogatepass")).hexdigest()


def add(lake: Lake, entries: Iterable[Entry]) -> int:
    """Add entries to a lake's blocklist, except those that it already contains. Returns the number of new entries.

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
    """Read the newest blocklist of a lake. The result is cached in the process until the table has a new version.

    Args:
        lake: the lake.
        distance: the number of bits in which a perceptual hash may differ from an entry and still match it.
    """
    table = lake.find("blocklist")
    return _read(lake.table_url("blocklist"), table.version if table else None, distance)


@lru_cache(maxsize=1)
def _read(url: str, version: int | None, distance: int) -> Blocklist:
    table = None if version is None else Table.open("blocklist", url, version)
    rows = BLOCKLIST.empty_table() if table is None else table.dataset().to_table(columns=["kind", "value"])
    return Blocklist(rows, distance)
