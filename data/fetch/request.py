"""Sends one HTTP request, on the public internet or to a named host.

The result is a response with a body of bounded size, or a `FetchFailure`. A request follows no redirects, uses no proxy
and keeps no cookies. Its sockets must pass the checks in address.py.
"""

import asyncio
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDictProxy
from yarl import URL

from data.fetch.address import ForbiddenAddress, NamedHosts, PublicResolver, SocketFactory, public_socket
from data.fetch.limits import Reservation
from data.fetch.robots import opt_out_directive

UNRESERVED_BYTES = 1 << 20  # bytes of a body for which no memory is reserved
DRAIN_BYTES = 1 << 14  # an unwanted body of up to this size is read, which costs less than a new connection
KEEPALIVE_SECONDS = 3.0  # with a longer time, a crawl of many hosts runs out of file descriptors
REDIRECTS = (301, 302, 303, 307, 308)
NOT_MODIFIED = 304
MAX_RETRY_AFTER = 7 * 24 * 3600.0  # seconds; even if a host asks for more, it is requested again after this time
MAX_URL_CHARACTERS = 8000
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)

Headers = CIMultiDictProxy[str]


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response whose body has been read. The body is empty for a redirect and for 304."""

    status: int
    headers: Headers
    body: bytes


class FetchFailure(Exception):
    """Raised to end the fetch of one URL.

    Attributes:
        status: one of the statuses of `FetchResult`.
        error: an error text.
        transient: True if a later build may succeed.
        http_status: the HTTP status of the response; None if there was no response.
        retry_at_once: True if another request after a moment may succeed.
        retry_after: the seconds that the server asks to wait.
    """

    def __init__(self, status: str, error: str, transient: bool = False, http_status: int | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.transient, self.http_status = status, error, transient, http_status
        self.retry_at_once = False
        self.retry_after: float | None = None


class TimeBudget:
    """The seconds that are left for one URL. Only time inside `running()` counts, not the wait for a host's limits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self.left = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Count the time of the block. Raises a `timeout` failure when no time is left."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.left):
                yield
        except TimeoutError as error:
            words = f"no complete response within {self.seconds:g} s"
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                words = "connecting took too long"
            raise FetchFailure("timeout", words, True) from None
        finally:
            self.left = max(0.0, self.left - (time.monotonic() - began))


class Client:
    """The connections of one worker: a pool for public addresses, and a pool for the named hosts."""

    def __init__(
        self,
        hosts: NamedHosts,
        resolver: AbstractResolver,
        context: ssl.SSLContext,
        agent: str,
        connect_timeout: float,
        respect_opt_out: bool,
    ) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._hosts = hosts
        self._respect_opt_out = respect_opt_out
        self._resolver = PublicResolver(resolver)
        self._public = _session(self._resolver, public_socket, context, agent, connect_timeout)
        self._named = _session(hosts, hosts.socket, context, agent, connect_timeout)

    async def close(self) -> None:
        """Close all connections."""
        await self._public.close()
        await self._named.close()
        await self._resolver.close()
        await asyncio.sleep(0)  # transports close in the event loop's next round

    async def get(
        self,
        target: URL,
        memory: Reservation,
        max_bytes: int,
        truncate: bool = False,
        conditional_headers: dict[str, str] | None = None,
    ) -> Response:
        """Send GET once, without following redirects.

        Args:
            target: the URL.
            memory: the reservation that a large body takes its memory from.
            max_bytes: the most bytes of a body. A longer body is never in memory as a whole.
            truncate: cut a longer body instead of failing, as for robots.txt files. Opt-out is not checked then.
            conditional_headers: If-None-Match or If-Modified-Since, to which the server may answer 304.

        Raises:
            FetchFailure: there is no response, or it is neither a body, nor a redirect, nor a 304 that was asked for.
            TimeoutError: connecting took too long.
        """
        session = self._named if self._hosts.find(str(target.raw_host)) else self._public
        try:
            async with session.get(target, allow_redirects=False, headers=conditional_headers) as response:
                not_modified = bool(conditional_headers) and response.status == NOT_MODIFIED
                if self._respect_opt_out and not truncate and (response.status in (200, 203) or not_modified):
                    _check_opt_out(response)
                if not_modified:
                    return Response(NOT_MODIFIED, response.headers, b"")
                if response.status in (200, 203):
                    body = await _read_body(response, memory, max_bytes, truncate)
                    return Response(response.status, response.headers, body)
                if (response.content_length or 1 << 20) <= DRAIN_BYTES:
                    await response.content.read()
                if response.status in REDIRECTS:
                    return Response(response.status, response.headers, b"")
                raise _status_failure(response)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise _failure_of(target, error) from None


def parse_url(url: str) -> URL:
    """Parse a URL that can be requested. Fragment, user name and password are removed.

    Raises:
        FetchFailure: `bad_url` or `forbidden_scheme`.
    """
    url = url.strip()
    scheme = SCHEME.match(url)
    if not scheme:
        raise FetchFailure("bad_url", f"{url[:100]!r} is not a URL" if url else "the URL is empty")
    if scheme[1].lower() not in ("http", "https"):
        raise FetchFailure("forbidden_scheme", f"{scheme[1].lower()}: only http and https are fetched")
    if len(url) > MAX_URL_CHARACTERS:
        raise FetchFailure("bad_url", f"the URL has {len(url):,} characters, more than {MAX_URL_CHARACTERS:,}")
    try:
        return _strip_credentials(URL(url))
    except ValueError as error:
        raise FetchFailure("bad_url", str(error)[:300]) from None


def redirect_target(target: URL, response: Response) -> URL:
    """Return the URL that a redirect leads to.

    Raises:
        FetchFailure: the redirect has no target, or its target is not a URL that can be requested.
    """
    location = response.headers.get("Location") or response.headers.get("URI")
    if not location:
        raise FetchFailure("http_error", f"{target.host} redirects without a Location", False, response.status)
    if SCHEME.match(location.strip()):
        return parse_url(location)
    try:
        return _strip_credentials(target.join(URL(location.strip())))
    except ValueError as error:
        raise FetchFailure("bad_url", f"redirect to {location[:100]!r}: {error}") from None


def _strip_credentials(url: URL) -> URL:
    """Remove fragment, user and password from a URL. Credentials in a list of URLs are never sent."""
    if url.raw_user is not None or url.raw_password is not None:
        url = url.with_user(None)
    return url.with_fragment(None)


def _session(
    resolver: AbstractResolver, factory: SocketFactory, context: ssl.SSLContext, agent: str, connect_timeout: float
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=resolver,
        socket_factory=factory,
        ssl=context,
        limit=0,
        keepalive_timeout=KEEPALIVE_SECONDS,
        ttl_dns_cache=60,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": agent},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=1 << 18,
    )


def _check_opt_out(response: aiohttp.ClientResponse) -> None:
    directive = opt_out_directive(response.headers.getall("X-Robots-Tag", ()))
    if directive:
        raise FetchFailure("opt_out", f"the owner opted out: X-Robots-Tag: {directive}", False, response.status)


async def _read_body(response: aiohttp.ClientResponse, memory: Reservation, max_bytes: int, truncate: bool) -> bytes:
    """Read and decompress the body. Never more than `max_bytes` of it are kept or decompressed."""
    decompressor = _decompressor(response)
    length = response.content_length
    if length is not None and length > max_bytes and not truncate:
        raise FetchFailure("too_large", f"{length:,} bytes, more than {max_bytes:,}", False, response.status)
    if length is not None and length > UNRESERVED_BYTES and not truncate:
        await memory.reserve(max_bytes if decompressor else length)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += decompressor.decompress(chunk, max_bytes + 1 - len(body)) if decompressor else chunk
        if len(body) > UNRESERVED_BYTES:
            await memory.reserve(max_bytes)
        if len(body) > max_bytes:
            if truncate:
                return bytes(body[:max_bytes])
            body.clear()  # immediately: the exception's frames would keep it until they are garbage-collected
            raise FetchFailure("too_large", f"more than {max_bytes:,} bytes", False, response.status)
    if decompressor and body and not decompressor.eof:
        raise FetchFailure("truncated", "the compressed body is incomplete", True, response.status)
    return bytes(body)


def _status_failure(response: aiohttp.ClientResponse) -> FetchFailure:
    """Convert an HTTP status to a failure."""
    http_status = response.status
    error = f"{response.url.host} answered {http_status} {response.reason or ''}".rstrip()
    if http_status == 429 or http_status >= 500:
        status = "rate_limited" if http_status == 429 else "server_error"
        failure = FetchFailure(status, error, True, http_status)
        failure.retry_at_once, failure.retry_after = True, _retry_after(response.headers)
        return failure
    status = {404: "not_found", 410: "gone"}.get(http_status, "http_error")
    return FetchFailure(status, error, http_status in (408, 425), http_status)


def _failure_of(target: URL, error: Exception) -> FetchFailure:
    """Convert an exception of the HTTP client to a failure."""
    cause = getattr(error, "os_error", None)
    words = f"{target.host}: {cause or error or type(error).__name__}"
    if isinstance(cause, ForbiddenAddress):
        return FetchFailure("forbidden_address", str(cause))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchFailure("dns", f"{target.host} has no address: {getattr(cause, 'strerror', None) or cause}", True)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return FetchFailure("tls", words)
    if isinstance(error, aiohttp.ClientConnectorError):
        return FetchFailure("connection", words, True)
    if isinstance(error, aiohttp.InvalidURL):
        return FetchFailure("bad_url", words)
    if isinstance(error, aiohttp.ClientPayloadError) and "ConnectionResetError" not in str(error):
        return FetchFailure("truncated", f"{target.host} sent an incomplete body", True)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
        failure = FetchFailure("connection", f"{target.host} broke the connection: {error}", True)
        failure.retry_at_once = True
        return failure
    return FetchFailure("protocol", f"{target.host} sent a response that can't be parsed: {error}")


def _decompressor(response: aiohttp.ClientResponse) -> "zlib._Decompress | None":
    """Return a decompressor if the server compressed the body although the request asked it not to, else None."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchFailure("protocol", f"unsupported Content-Encoding {encoding!r}", False, response.status)
    return zlib.decompressobj(zlib.MAX_WBITS | 32)


def _retry_after(headers: Headers) -> float | None:
    """Return the seconds in a Retry-After header, which is a number or a date. None if there is no valid header."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), MAX_RETRY_AFTER)
    if not value:
        return None
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER)
