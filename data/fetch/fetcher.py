"""A fetch that is safe on the open internet, and fast: kept connections, one TLS context, robots.txt once a host.

What a URL does never raises: it is a status of `Fetched`, with the reason in words. Which addresses may be reached
lies in address.py, one request in request.py, what owners forbid in robots.py, what bounds a worker in limits.py.
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from data.fetch import robots
from data.fetch.address import Hosts, SystemResolver, domain_among, literal, refusal
from data.fetch.limits import Memory, Resting, Share, Turns
from data.fetch.request import REDIRECTS, UNCHANGED, Answer, Client, Failure

BODIES = 128 << 20  # bytes that larger bodies may take together
LONGEST_WAIT = 5.0  # seconds for which a URL waits until its host may be asked again; longer is for another build
LONGEST_URL = 8000
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+", re.IGNORECASE)


class FetchSettings(BaseModel):
    """How pictures are fetched, and within which bounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: float = Field(30.0, gt=0, description="seconds for one URL in total, redirects and a slow drip included")
    connect_timeout: float = Field(10.0, gt=0, description="seconds until a connection stands")
    max_bytes: int = Field(20_000_000, gt=0, description="a longer body is not a picture we want")
    max_redirects: int = Field(5, ge=0)
    tries: int = Field(2, ge=1, description="quick tries within one attempt, after 5xx, 429 and a connection reset")
    retry_wait: float = Field(0.5, ge=0, description="seconds between them, unless the server says Retry-After")
    concurrency: int = Field(64, ge=1, description="URLs at once in one worker process")
    per_host: int = Field(8, ge=1, description="connections at once to one host")
    per_host_rate: float = Field(20.0, gt=0, description="requests a second to one host")
    respect_robots: bool = Field(True, description="ask robots.txt")
    respect_opt_out: bool = Field(True, description="leave what X-Robots-Tag withholds: noai, noindex and their kin")
    blocked_domains: tuple[str, ...] = Field((), description="never asked, nor their subdomains")
    contact: str | None = Field(None, pattern=r"^[ -~]+$", description="goes into the user agent: an address or page")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of one URL. `status` is one of

    ok                 the body is here
    unchanged          304: the bytes are those of `Before`
    not_found, gone    404, 410
    rate_limited       429                                                      (transient)
    server_error       5xx                                                      (transient)
    http_error         any other answer that is no picture: 401, 403, 451, 300
    timeout            no connection, or no whole answer, in time               (transient)
    dns                the name has no address                                  (transient)
    connection         refused, reset, or closed before an answer               (transient)
    truncated          the body ended before its end                            (transient)
    tls                no trusted certificate for the name, or no handshake
    protocol           what answered does not speak HTTP, or an unknown encoding
    too_large          the body is longer than `max_bytes`
    redirects          more redirects than `max_redirects`
    forbidden_address  the address is not public
    forbidden_scheme   neither http nor https
    bad_url            no URL that can be asked
    blocked            a blocked domain or URL
    robots             robots.txt forbids it, or can't be had                   (transient if it can't be had)
    opt_out            X-Robots-Tag withholds it
    """

    url: str
    status: str
    error: str | None
    transient: bool
    http_status: int | None = None
    body: bytes | None = None
    final_url: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    content_type: str | None = None
    retry_after: float | None = None  # seconds, as the host says


@dataclass(frozen=True, slots=True)
class Before:
    """What a URL answered when its picture was fetched, so that the same bytes need not come again."""

    final_url: str
    etag: str | None
    last_modified: str | None

    def unless(self, target: URL) -> dict[str, str] | None:
        """The headers of a conditional request; the answer was that of one URL, and is no other's."""
        said = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in said.items() if value} if str(target) == self.final_url else None


class _Clock:
    """The time that one URL has left. It stands still while the URL waits for its turn: that is not its fault."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.left = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.left):
                yield
        except TimeoutError as error:
            what = "connecting took too long" if isinstance(error, aiohttp.ConnectionTimeoutError) else None
            raise Failure("timeout", what or f"no whole answer within {self.seconds:g} s", True) from None
        finally:
            self.left = max(0.0, self.left - (time.monotonic() - began))


class Fetcher:
    """Fetches URLs, many at once; `async with Fetcher(settings) as fetcher`, one for a worker and its event loop.

    `hosts` are the lake's named hosts (a name or `*.name` to `address` or `address:port`), the only ones that may lie
    on addresses that are not public. `workers` share the bounds of a host. `certificates` is a file of further CAs.
    `blocked` may be set: it says of every URL, redirects' too, why it must not be asked.
    """

    def __init__(
        self,
        settings: FetchSettings,
        hosts: Mapping[str, str] = {},
        workers: int = 1,
        certificates: str | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self.settings = settings
        self._hosts = Hosts(hosts)
        self._certificates = certificates
        self._names = resolver
        self._blocked = {domain.lower().strip(".") for domain in settings.blocked_domains}
        self._turns = Turns(max(1, settings.per_host // workers), settings.per_host_rate / workers)
        self._at_once = asyncio.Semaphore(settings.concurrency)
        self._memory = Memory(max(BODIES, settings.max_bytes))
        self._robots = robots.Robots(self._read_robots)
        self.blocked: Callable[[URL], str | None] = lambda url: None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        if self._certificates:
            context.load_verify_locations(self._certificates)
        contact = self.settings.contact or "builds image datasets; honours robots.txt and X-Robots-Tag"
        agent = f"{robots.AGENT}/{version('imagen')} ({contact})"
        self._client = Client(
            self._hosts,
            self._names or SystemResolver(),
            context,
            agent,
            self.settings.connect_timeout,
            self.settings.respect_opt_out,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._robots.close()
        await self._client.close()

    async def fetch(self, url: str, before: Before | None = None) -> Fetched:
        async with self.fetching(url, before) as fetched:
            return fetched

    @asynccontextmanager
    async def fetching(self, url: str, before: Before | None = None) -> AsyncIterator[Fetched]:
        """A fetch whose body counts as memory in flight until the block ends: decode it inside."""
        share = Share(self._memory)
        try:
            yield await self._fetched(url, share, before)
        finally:
            share.release()

    async def _fetched(self, url: str, share: Share, before: Before | None) -> Fetched:
        at: list[URL] = []
        try:
            answer = await self._follow(url, share, at, before)
        except Failure as failure:
            return Fetched(
                url,
                failure.status,
                failure.error,
                failure.transient,
                failure.http_status,
                final_url=str(at[-1]) if at else None,
                retry_after=failure.retry_after,
            )
        headers, unchanged = answer.headers, answer.status == UNCHANGED
        return Fetched(
            url,
            "unchanged" if unchanged else "ok",
            None,
            False,
            answer.status,
            None if unchanged else answer.body,
            str(at[-1]),
            headers.get("ETag", before.etag if before and unchanged else None),
            headers.get("Last-Modified", before.last_modified if before and unchanged else None),
            headers.get("Content-Type"),
        )

    async def _follow(self, url: str, share: Share, at: list[URL], before: Before | None) -> Answer:
        """The picture at the end of the redirects; `at` gets every URL that was asked on the way."""
        clock = _Clock(self.settings.timeout)
        target = _parsed(url)
        for _ in range(self.settings.max_redirects + 1):
            self._check(target)
            if self.settings.respect_robots:
                await self._ask_robots(target)
            at.append(target)
            answer = await self._try(target, clock, share, unless=before.unless(target) if before else None)
            if answer.status not in REDIRECTS:
                return answer
            target = _redirected(target, answer)
        raise Failure("redirects", f"more than {self.settings.max_redirects} redirects, the next one to {target}")

    def _check(self, target: URL) -> None:
        """What a URL says before anything is asked; addresses are checked again as names resolve and sockets open."""
        host = (target.raw_host or "").lower().rstrip(".")
        if not HOST.fullmatch(host):
            raise Failure("bad_url", f"{target} names no host" if not host else f"{host!r} can't be a host's name")
        if domain_among(host, self._blocked):
            raise Failure("blocked", f"{host} is a blocked domain")
        if why := self.blocked(target):
            raise Failure("blocked", why)
        if self._hosts.find(host):
            return
        address = literal(host)
        if address is None:
            return
        reason = refusal(address)
        if reason:
            raise Failure("forbidden_address", reason if host == address else f"{host} is {address}: {reason}")
        if ":" not in host and host != address:
            raise Failure("bad_url", f"{host} is an unusual spelling of {address}")

    async def _ask_robots(self, target: URL) -> None:
        rules = await self._robots.rules(str(target.origin()))
        if rules.failure:
            raise Failure(*rules.failure)
        if not rules.allow(str(target)):
            raise Failure("robots", f"the robots.txt of {target.host} forbids it")

    async def _read_robots(self, origin: str) -> robots.Rules:
        clock, share = _Clock(self.settings.timeout), Share(self._memory)
        target = first = URL(origin) / "robots.txt"
        try:
            for _ in range(6):  # RFC 9309 2.3.1.2: at least five redirects
                self._check(target)
                answer = await self._try(target, clock, share, robots.LIMIT)
                if answer.status not in REDIRECTS:
                    return await asyncio.to_thread(robots.parse, answer.body)
                target = _redirected(target, answer)
            return robots.Rules()
        except Failure as failure:
            if failure.http_status and 400 <= failure.http_status < 500 and failure.status != "rate_limited":
                return robots.Rules()
            if target == first and failure.status in ("dns", "connection", "forbidden_address", "tls"):
                return robots.Rules(failure=(failure.status, failure.error, failure.transient))
            return robots.Rules(failure=("robots", f"{first} can't be had: {failure.error}", True))
        finally:
            share.release()

    async def _try(
        self,
        target: URL,
        clock: _Clock,
        share: Share,
        cut: int | None = None,
        unless: dict[str, str] | None = None,
    ) -> Answer:
        """One answer, after a few quick tries if these can help, and after a short rest if the host asks for one."""
        host = str(target.raw_host).lower().rstrip(".")
        tries, patience = self.settings.tries, LONGEST_WAIT
        while True:
            try:
                async with self._turns.turn(host), self._at_once, clock.running():
                    return await self._client.ask(
                        target, share, cut or self.settings.max_bytes, cut is not None, unless
                    )
            except Resting as rest:
                wait = rest.seconds
                if wait > patience:
                    raise _unasked(host, rest) from None
                patience -= wait
            except Failure as failure:
                tries -= 1
                if failure.retry_after:
                    self._turns.rest(host, failure.retry_after, failure.status)
                wait = self.settings.retry_wait if failure.retry_after is None else failure.retry_after
                if not failure.passing or not tries or wait > min(clock.left, LONGEST_WAIT):
                    raise
                clock.left -= wait
            await asyncio.sleep(wait)


def _unasked(host: str, rest: Resting) -> Failure:
    failure = Failure(rest.status, f"{host}: {rest}", True)
    failure.retry_after = rest.seconds
    return failure


def _parsed(url: str) -> URL:
    url = url.strip()
    scheme = SCHEME.match(url)
    if not scheme:
        raise Failure("bad_url", f"{url[:100]!r} is not a URL" if url else "the URL is empty")
    if scheme[1].lower() not in ("http", "https"):
        raise Failure("forbidden_scheme", f"{scheme[1].lower()}: only http and https are fetched")
    if len(url) > LONGEST_URL:
        raise Failure("bad_url", f"a URL of {len(url):,} characters")
    try:
        return _bare(URL(url))
    except ValueError as error:
        raise Failure("bad_url", str(error)[:300]) from None


def _bare(url: URL) -> URL:
    """Without fragment, and without user and password: what a list of URLs knows is no secret to give away."""
    return (url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url).with_fragment(
        None
    )


def _redirected(target: URL, answer: Answer) -> URL:
    location = answer.headers.get("Location") or answer.headers.get("URI")
    if not location:
        raise Failure("http_error", f"{target.host} redirects to nowhere", False, answer.status)
    if SCHEME.match(location.strip()):
        return _parsed(location)
    try:
        return _bare(target.join(URL(location.strip())))
    except ValueError as error:
        raise Failure("bad_url", f"redirect to {location[:100]!r}: {error}") from None
