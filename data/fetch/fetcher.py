"""Fetches URLs on the open internet safely and fast.

It is fast because connections are reused, there is one TLS context, and robots.txt is read once per host. Fetching a
URL never raises an exception because of the URL or its server. The outcome is the status of a `FetchResult`, with an
error text. See address.py for allowed addresses, request.py for single requests, robots.py for owners' rules, and
limits.py for rate limits.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from data.fetch import robots
from data.fetch.address import NamedHosts, SystemResolver, ip_literal, matching_domain, refusal
from data.fetch.limits import HostBackoff, HostLimits, MemoryBudget, Reservation
from data.fetch.request import (
    NOT_MODIFIED,
    REDIRECTS,
    Client,
    FetchFailure,
    Response,
    TimeBudget,
    parse_url,
    redirect_target,
)

BODY_MEMORY = 128 << 20  # bytes that all large bodies together may take
MAX_WAIT = 5.0  # seconds that a URL waits while its host backs off; if the host asks for more, a later build retries
ROBOTS_REQUESTS = 6  # for one robots.txt: RFC 9309 2.3.1.2 asks for at least five redirects
HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+", re.IGNORECASE)


class FetchSettings(BaseModel):
    """Settings for fetching pictures, with their limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout: float = Field(30.0, gt=0, description="seconds for one URL in total, with its redirects")
    connect_timeout: float = Field(10.0, gt=0, description="seconds to establish a connection")
    max_bytes: int = Field(20_000_000, gt=0, description="longest response body")
    max_redirects: int = Field(5, ge=0, description="redirects followed for one URL")
    tries: int = Field(2, ge=1, description="requests within one attempt, after 5xx, 429 or a broken connection")
    retry_wait: float = Field(0.5, ge=0, description="seconds between these requests, unless Retry-After says else")
    concurrency: int = Field(64, ge=1, description="URLs fetched at once by one worker process")
    per_host: int = Field(8, ge=1, description="connections at once to one host")
    per_host_rate: float = Field(20.0, gt=0, description="requests a second to one host")
    respect_robots: bool = Field(True, description="obey robots.txt")
    respect_opt_out: bool = Field(True, description="skip pictures whose X-Robots-Tag says noai, noindex or the like")
    blocked_domains: tuple[str, ...] = Field((), description="domains never requested, with their subdomains")
    contact: str | None = Field(
        None, pattern=r"^[ -~]+$", description="e-mail address or web page of the operator, sent in the user agent"
    )


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The outcome of fetching one URL.

    The attribute `status` is one of these:

        ok                 `body` contains the bytes
        unchanged          304: the bytes are the same as in the previous fetch
        not_found, gone    404, 410
        rate_limited       429                                                      (transient)
        server_error       5xx                                                      (transient)
        http_error         any other HTTP status: 401, 403, 451, 300
        timeout            no connection or no complete response in time            (transient)
        dns                the name has no address                                  (transient)
        connection         refused, reset, or closed before a response              (transient)
        truncated          the body is incomplete                                   (transient)
        tls                no trusted certificate for the name, or no handshake
        protocol           the response is not HTTP, or has an unknown encoding
        too_large          the body is longer than `max_bytes`
        redirects          more redirects than `max_redirects`
        forbidden_address  the address is not public
        forbidden_scheme   neither http nor https
        bad_url            not a URL that can be requested
        blocked            a blocked domain or URL
        robots             robots.txt forbids it, or could not be read              (transient if it could not be read)
        opt_out            X-Robots-Tag opts out
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
    retry_after: float | None = None  # seconds that the host asks to wait


@dataclass(frozen=True, slots=True)
class Validators:
    """The validators of a URL's last response. With them, a server can answer 304 instead of sending bytes again."""

    final_url: str
    etag: str | None
    last_modified: str | None

    def conditional_headers(self, target: URL) -> dict[str, str] | None:
        """Return the headers of a conditional request. None if the validators belong to another URL than `target`."""
        if str(target) != self.final_url:
            return None
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


class Fetcher:
    """Fetches many URLs concurrently. A worker has one fetcher, in its event loop.

    Args:
        settings: limits, and the owners' rules to obey.
        hosts: named hosts of the lake, which map a name or `*.name` to `address` or `address:port`. Only these hosts
            may have addresses that are not public.
        workers: the number of workers that share the limits per host. This fetcher uses its share of them.
        certificates: a file with additional certificate authorities.
        resolver: a resolver to use instead of the system's.

    Attributes:
        block_reason: can be set to a function that returns why a URL must not be requested, or None. It is called for
            every URL, including redirects.

    Example:
        async with Fetcher(FetchSettings()) as fetcher:
            result = await fetcher.fetch("https://example.org/cat.jpg")
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
        self._hosts = NamedHosts(hosts)
        self._certificates = certificates
        self._resolver = resolver
        self._blocked_domains = {domain.lower().strip(".") for domain in settings.blocked_domains}
        self._limits = HostLimits(max(1, settings.per_host // workers), settings.per_host_rate / workers)
        self._concurrency = asyncio.Semaphore(settings.concurrency)
        self._memory = MemoryBudget(max(BODY_MEMORY, settings.max_bytes))
        self._robots = robots.RobotsCache(self._read_robots)
        self.block_reason: Callable[[URL], str | None] = lambda url: None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context()
        if self._certificates:
            context.load_verify_locations(self._certificates)
        contact = self.settings.contact or "builds image datasets; honours robots.txt and X-Robots-Tag"
        agent = f"{robots.AGENT}/{version('imagen')} ({contact})"
        self._client = Client(
            self._hosts,
            self._resolver or SystemResolver(),
            context,
            agent,
            self.settings.connect_timeout,
            self.settings.respect_opt_out,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._robots.close()
        await self._client.close()

    async def fetch(self, url: str, validators: Validators | None = None) -> FetchResult:
        """Fetch one URL, following redirects. Never raises because of the URL or its server.

        Args:
            url: the URL.
            validators: the validators of its last response. If the server says that they are still valid, the status
                is `unchanged`.
        """
        async with self.fetching(url, validators) as result:
            return result

    @asynccontextmanager
    async def fetching(self, url: str, validators: Validators | None = None) -> AsyncIterator[FetchResult]:
        """Fetch like `fetch`. The body counts as used memory until the block ends, so decode it inside the block."""
        memory = Reservation(self._memory)
        try:
            yield await self._fetch(url, memory, validators)
        finally:
            memory.release()

    async def _fetch(self, url: str, memory: Reservation, validators: Validators | None) -> FetchResult:
        visited: list[URL] = []
        try:
            response = await self._follow(url, memory, visited, validators)
        except FetchFailure as failure:
            return FetchResult(
                url,
                failure.status,
                failure.error,
                failure.transient,
                failure.http_status,
                final_url=str(visited[-1]) if visited else None,
                retry_after=failure.retry_after,
            )
        headers, unchanged = response.headers, response.status == NOT_MODIFIED
        return FetchResult(
            url,
            "unchanged" if unchanged else "ok",
            None,
            False,
            response.status,
            None if unchanged else response.body,
            str(visited[-1]),
            headers.get("ETag", validators.etag if validators and unchanged else None),
            headers.get("Last-Modified", validators.last_modified if validators and unchanged else None),
            headers.get("Content-Type"),
        )

    async def _follow(
        self, url: str, memory: Reservation, visited: list[URL], validators: Validators | None
    ) -> Response:
        """Return the response at the end of the redirects. Every requested URL is appended to `visited`."""
        budget = TimeBudget(self.settings.timeout)
        target = parse_url(url)
        for _ in range(self.settings.max_redirects + 1):
            self._check_url(target)
            if self.settings.respect_robots:
                await self._check_robots(target)
            visited.append(target)
            conditional_headers = validators.conditional_headers(target) if validators else None
            response = await self._request(target, budget, memory, conditional_headers=conditional_headers)
            if response.status not in REDIRECTS:
                return response
            target = redirect_target(target, response)
        raise FetchFailure("redirects", f"more than {self.settings.max_redirects} redirects, the next one to {target}")

    def _check_url(self, target: URL) -> None:
        """Refuse a URL that is forbidden by itself. Addresses are checked again when names resolve and sockets open."""
        host = (target.raw_host or "").lower().rstrip(".")
        if not HOST.fullmatch(host):
            raise FetchFailure("bad_url", f"{host!r} is not a valid host name" if host else f"{target} has no host")
        if matching_domain(host, self._blocked_domains):
            raise FetchFailure("blocked", f"{host} is in a blocked domain")
        reason = self.block_reason(target)
        if reason:
            raise FetchFailure("blocked", reason)
        if self._hosts.find(host):
            return
        address = ip_literal(host)
        if address is None:
            return
        reason = refusal(address)
        if reason:
            raise FetchFailure("forbidden_address", reason if host == address else f"{host} is {address}: {reason}")
        if ":" not in host and host != address:
            raise FetchFailure("bad_url", f"{host} is an unusual spelling of {address}")

    async def _check_robots(self, target: URL) -> None:
        rules = await self._robots.rules(str(target.origin()))
        if rules.failure:
            raise FetchFailure(*rules.failure)
        if not rules.allow(str(target)):
            raise FetchFailure("robots", f"the robots.txt of {target.host} forbids it")

    async def _read_robots(self, origin: str) -> robots.Rules:
        budget, memory = TimeBudget(self.settings.timeout), Reservation(self._memory)
        target = first = URL(origin) / "robots.txt"
        try:
            for _ in range(ROBOTS_REQUESTS):
                self._check_url(target)
                response = await self._request(target, budget, memory, robots.LIMIT)
                if response.status not in REDIRECTS:
                    return await asyncio.to_thread(robots.parse, response.body)
                target = redirect_target(target, response)
            return robots.Rules()
        except FetchFailure as failure:
            if failure.http_status and 400 <= failure.http_status < 500 and failure.status != "rate_limited":
                return robots.Rules()
            if target == first and failure.status in ("dns", "connection", "forbidden_address", "tls"):
                return robots.Rules(failure=(failure.status, failure.error, failure.transient))
            return robots.Rules(failure=("robots", f"{first} could not be read: {failure.error}", True))
        finally:
            memory.release()

    async def _request(
        self,
        target: URL,
        budget: TimeBudget,
        memory: Reservation,
        truncate_at: int | None = None,
        conditional_headers: dict[str, str] | None = None,
    ) -> Response:
        """Send a request. Retries a few times if that may help, and waits for a short time if the host asks for it."""
        host = str(target.raw_host).lower().rstrip(".")
        tries_left, wait_left = self.settings.tries, MAX_WAIT
        while True:
            try:
                async with self._limits.slot(host), self._concurrency, budget.running():
                    max_bytes = truncate_at or self.settings.max_bytes
                    return await self._client.get(
                        target, memory, max_bytes, truncate_at is not None, conditional_headers
                    )
            except HostBackoff as backoff:
                wait = backoff.seconds
                if wait > wait_left:
                    raise _backoff_failure(host, backoff) from None
                wait_left -= wait
            except FetchFailure as failure:
                tries_left -= 1
                if failure.retry_after:
                    self._limits.back_off(host, failure.retry_after, failure.status)
                wait = self.settings.retry_wait if failure.retry_after is None else failure.retry_after
                if not failure.retry_at_once or not tries_left or wait > min(budget.left, MAX_WAIT):
                    raise
                budget.left -= wait
            await asyncio.sleep(wait)


def _backoff_failure(host: str, backoff: HostBackoff) -> FetchFailure:
    failure = FetchFailure(backoff.status, f"{host}: {backoff}", True)
    failure.retry_after = backoff.seconds
    return failure
