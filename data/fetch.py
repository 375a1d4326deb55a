"""Fetch a URL that nobody vouches for: safely, politely, within bounds, over kept connections.

Only http and https, only allowed addresses (address.py), every redirect checked like a first request. Time is bounded
in total, so a slow drip ends too; bodies are cut at a limit; few large ones are in memory at once. Opt-outs are
honoured: X-Robots-Tag, robots.txt (robots.py), a domain blocklist. The user agent says who we are.
"""

import asyncio
import ssl
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from importlib.metadata import version
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from data.address import ForbiddenAddress, Gate, is_public, literal
from data.robots import ROBOTS_BYTES, Robots

TOKEN = "imagen-dataset"  # what robots.txt and X-Robots-Tag may call us
OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
REDIRECTS = (301, 302, 303, 307, 308)
SMALL_BODY = 1 << 20  # bytes: larger bodies share LARGE_BODIES places, which bounds a worker's memory
LARGE_BODIES = 8
PATIENCE = 10.0  # seconds: a longer Retry-After is left to another build
STATUSES = {404: "not_found", 410: "gone", 429: "rate_limited"}
TRANSIENT = {"timeout", "dns", "connection", "tls", "truncated", "server_error", "rate_limited", "robots_unavailable"}


class FetchSettings(BaseModel):
    """Bounds and manners."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: float = Field(30.0, gt=0, description="seconds for one URL in total")
    connect_timeout: float = Field(10.0, gt=0)
    max_bytes: int = Field(20_000_000, ge=1)
    max_redirects: int = Field(5, ge=0)
    tries: int = Field(2, ge=1, description="within one attempt: after 5xx, 429 or a reset, not after a time-out")
    retry_wait: float = Field(0.5, ge=0, description="seconds")
    concurrency: int = Field(64, ge=1, description="URLs at once in one worker")
    per_host: int = Field(8, ge=1, description="connections at once to one host, of all workers together")
    per_host_rate: float = Field(20.0, gt=0, description="requests a second to one host, of all workers together")
    respect_robots: bool = True
    respect_opt_out: bool = True
    blocked_domains: tuple[str, ...] = Field((), description="and all their subdomains")
    contact: str | None = Field(None, description="an address for those whose pictures we fetch, in the user agent")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one URL."""

    url: str
    status: str  # ok, or one word for why not
    error: str | None = None
    transient: bool = False  # worth another attempt on another day
    http_status: int | None = None
    body: bytes | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None


class Refused(Exception):
    """Ends one fetch: a status and words."""

    def __init__(self, status: str, words: str, http_status: int | None = None, retry_after: float = 0) -> None:
        super().__init__(words)
        self.status, self.http_status, self.retry_after = status, http_status, retry_after


class Fetcher:
    """Fetches for one worker: one TLS context, kept connections, robots.txt once a host."""

    def __init__(
        self,
        settings: FetchSettings,
        hosts: Mapping[str, str] | None = None,
        workers: int = 1,
        certificates: str | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.settings = settings
        self.gate = Gate(hosts or {}, resolver)
        self.per_host = max(1, settings.per_host // workers)
        self.pause = workers / settings.per_host_rate  # seconds between requests to one host
        self.turns: dict[str, float] = {}  # host → when the next request may go
        self.large = asyncio.Semaphore(LARGE_BODIES)
        self.tls = ssl.create_default_context()
        if certificates is not None:
            self.tls.load_verify_locations(certificates)
        about = f"; {settings.contact}" if settings.contact else ""
        self.user_agent = f"{TOKEN}/{version('imagen')} (collects text-image pairs{about})"
        self.robots = Robots(self._robots_txt, self.user_agent)
        self.session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Fetcher":
        from img2dataset.downloader import is_disallowed  # seconds to import: now, not while URLs are under way

        self.is_disallowed = is_disallowed
        settings = self.settings
        connector = aiohttp.TCPConnector(
            resolver=self.gate,
            socket_factory=self.gate.open_socket,
            ssl=self.tls,
            limit=0,
            limit_per_host=self.per_host,
            ttl_dns_cache=60,
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout),
            headers={"User-Agent": self.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # bounded below; a compressed body may be a bomb
            trust_env=False,  # a proxy would connect for us, past every check
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.session is not None
        await self.session.close()

    async def fetch(self, url: str) -> Fetched:
        """Fetch; whatever the URL does comes back as a status, never as an exception."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                return replace(await self._try(url), url=url)
        except TimeoutError:
            return Fetched(url, "timeout", f"nothing whole came within {self.settings.timeout:g} s", transient=True)
        except Refused as refusal:
            transient = refusal.status in TRANSIENT
            return Fetched(url, refusal.status, str(refusal), transient, refusal.http_status)

    async def _try(self, url: str) -> Fetched:
        """Get it, asking again soon where that often helps."""
        for left in range(self.settings.tries - 1, -1, -1):
            try:
                return await self._get(url, self.settings.max_bytes, self._allowed)
            except Refused as refusal:
                wait = max(self.settings.retry_wait, refusal.retry_after)
                if not left or wait > PATIENCE or refusal.status not in ("server_error", "rate_limited", "connection"):
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("a fetch has at least one try")

    async def _get(self, url: str, limit: int, check: Callable[[URL], Any]) -> Fetched:
        """Follow redirects by hand, each hop checked like the first; raises Refused."""
        here = _parse(url)
        for _ in range(self.settings.max_redirects + 1):
            await check(here)
            await self._turn(here.host or "")
            got = await self._request(here, limit)
            if isinstance(got, Fetched):
                return got
            here = got
        raise Refused("redirects", f"more than {self.settings.max_redirects} redirects")

    async def _allowed(self, url: URL) -> None:
        self._check(url)
        if self.settings.respect_robots:
            verdict = await self.robots.allows(url)
            if verdict is None:
                raise Refused("robots_unavailable", f"robots.txt of {url.host} can't be had now")
            if not verdict:
                raise Refused("robots", f"robots.txt of {url.host} forbids it")

    def _check(self, url: URL) -> None:
        host = (url.host or "").lower().rstrip(".")
        if url.scheme not in ("http", "https"):
            raise Refused("forbidden_scheme", f"{url.scheme or 'no scheme'}: only http and https are fetched")
        if not host:
            raise Refused("bad_url", "the URL names no host")
        if any(host == domain or host.endswith(f".{domain}") for domain in self.settings.blocked_domains):
            raise Refused("blocked", f"{host} is on the blocklist")
        address = literal(host)
        if address is not None and not is_public(address) and self.gate.named(host) is None:
            raise Refused("forbidden_address", f"{address} is not public")

    async def _turn(self, host: str) -> None:
        """Wait until the host may be asked again."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self.turns.get(host, 0.0))
        self.turns[host] = turn + self.pause
        if turn > now:
            await asyncio.sleep(turn - now)

    async def _request(self, url: URL, limit: int) -> Fetched | URL:
        """One request: what came, or where it points to."""
        assert self.session is not None
        try:
            async with self.session.get(url, allow_redirects=False) as response:
                if response.status in REDIRECTS and "Location" in response.headers:
                    return _redirected(url, response.headers["Location"])
                if response.status != 200:
                    raise _unwelcome(response)
                if self.settings.respect_opt_out and self._opted_out(response):
                    raise Refused("opt_out", "its owner refuses: X-Robots-Tag", 200)
                body = await self._body(response, limit)
                headers = response.headers
                return Fetched(
                    str(url),
                    "ok",
                    http_status=200,
                    body=body,
                    final_url=str(url),
                    etag=headers.get("ETag"),
                    last_modified=headers.get("Last-Modified"),
                    content_type=headers.get("Content-Type"),
                )
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise _refusal(error) from None

    async def _body(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        if (response.content_length or 0) > limit:
            raise Refused("too_large", f"{response.content_length:,} bytes are more than {limit:,}", 200)
        chunks: list[bytes] = []
        size, place = 0, False
        try:
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise Refused("too_large", f"more than {limit:,} bytes", 200)
                if size > SMALL_BODY and not place:
                    await self.large.acquire()
                    place = True
                chunks.append(chunk)
            body = b"".join(chunks)
        finally:
            if place:
                self.large.release()
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        return body if encoding == "identity" else _unpacked(body, encoding, limit)

    def _opted_out(self, response: aiohttp.ClientResponse) -> bool:
        headers = Message()
        for value in response.headers.getall("X-Robots-Tag", ()):
            headers["X-Robots-Tag"] = value
        return bool(self.is_disallowed(headers, TOKEN, OPT_OUTS))

    async def _robots_txt(self, url: URL) -> bytes | None:
        """The file's text; empty where there is none; None where nobody can say now."""

        async def check(hop: URL) -> None:
            self._check(hop)

        try:
            async with asyncio.timeout(self.settings.timeout):
                return (await self._get(str(url), ROBOTS_BYTES, check)).body
        except TimeoutError:
            return None
        except Refused as refusal:
            return None if refusal.status in TRANSIENT else b""


def _parse(url: str) -> URL:
    try:
        return URL(url.strip())
    except ValueError as error:
        raise Refused("bad_url", f"no URL: {error}") from None


def _redirected(url: URL, location: str) -> URL:
    try:
        return url.join(URL(location))
    except ValueError as error:
        raise Refused("bad_url", f"redirected to what is no URL: {error}") from None


def _unwelcome(response: aiohttp.ClientResponse) -> Refused:
    code = response.status
    status = STATUSES.get(code) or ("server_error" if code >= 500 else "http_error")
    wait = response.headers.get("Retry-After", "")
    return Refused(status, f"HTTP {code} {response.reason or ''}".strip(), code, float(wait) if wait.isdigit() else 0)


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """A body that was compressed although we asked for none, within the same limit."""
    if encoding not in ("gzip", "deflate"):
        raise Refused("http_error", f"Content-Encoding {encoding} is not read", 200)
    try:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused("truncated", f"{encoding} body is broken: {error}", 200) from None
    if len(unpacked) > limit:
        raise Refused("too_large", f"unpacks to more than {limit:,} bytes", 200)
    return unpacked


def _refusal(error: Exception) -> Refused:
    """One word for what aiohttp raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ForbiddenAddress) or "is not public" in str(cause):
            return Refused("forbidden_address", str(cause))
        cause = getattr(cause, "os_error", None) or cause.__cause__ or cause.__context__
    words = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Refused("dns", words)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Refused("tls", words)
    if isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
        return Refused("timeout", words)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Refused("truncated", words)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return Refused("bad_url", words)
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return Refused("connection", words)
    return Refused("http_error", words)
