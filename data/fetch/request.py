"""One request on the public internet or to a named host: an answer with a bounded body, or a failure in words.

No redirect is followed, no proxy asked and no cookie kept here; the sockets go through the gates of address.py.
"""

import asyncio
import ssl
import time
import zlib
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDictProxy
from yarl import URL

from data.fetch.address import ForbiddenAddress, Hosts, PublicResolver, SocketGate, public_socket
from data.fetch.limits import Share
from data.fetch.robots import opted_out

SMALL = 1 << 20  # bytes of a body that need no share of the memory
SHORT = 1 << 14  # bytes that are read and dropped rather than the connection
IDLE = 3.0  # seconds a connection is kept; longer, and a crawl of many hosts runs out of file descriptors
REDIRECTS = (301, 302, 303, 307, 308)
UNCHANGED = 304
LONGEST_REST = 7 * 24 * 3600.0  # seconds; a host that says more is asked again all the same

Headers = CIMultiDictProxy[str]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes


class Failure(Exception):
    """Ends the fetch of one URL with a status of `Fetched`. Without `http_status` the origin said nothing."""

    def __init__(self, status: str, error: str, transient: bool = False, http_status: int | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.transient, self.http_status = status, error, transient, http_status
        self.passing = False  # another try at once may help
        self.retry_after: float | None = None  # seconds, as the server says


class Client:
    """The connections of one worker: one pool for public addresses, one for the named hosts."""

    def __init__(
        self,
        hosts: Hosts,
        names: AbstractResolver,
        context: ssl.SSLContext,
        agent: str,
        connect_timeout: float,
        respect_opt_out: bool,
    ) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._hosts = hosts
        self._respect_opt_out = respect_opt_out
        self._resolver = PublicResolver(names)
        self._public = _session(self._resolver, public_socket, context, agent, connect_timeout)
        self._named = _session(hosts, hosts.socket, context, agent, connect_timeout)

    async def close(self) -> None:
        await self._public.close()
        await self._named.close()
        await self._resolver.close()
        await asyncio.sleep(0)  # transports say goodbye in the loop's next round

    async def ask(
        self, target: URL, share: Share, most: int, cut: bool = False, unless: dict[str, str] | None = None
    ) -> Answer:
        """The answer to GET. A body of more than `most` bytes is a failure; with `cut`, as for robots.txt, it ends.

        `unless` are the headers by which an origin may say that nothing has changed.
        """
        session = self._named if self._hosts.find(str(target.raw_host)) else self._public
        try:
            async with session.get(target, allow_redirects=False, headers=unless) as response:
                unchanged = bool(unless) and response.status == UNCHANGED
                if self._respect_opt_out and not cut and (response.status in (200, 203) or unchanged):
                    _check_opt_out(response)
                if unchanged:
                    return Answer(UNCHANGED, response.headers, b"")
                if response.status in (200, 203):
                    return Answer(response.status, response.headers, await _body(response, share, most, cut))
                if (response.content_length or 1 << 20) <= SHORT:
                    await response.content.read()
                if response.status in REDIRECTS:
                    return Answer(response.status, response.headers, b"")
                raise _refused(response)
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            raise _broken(target, error) from None


def _session(
    resolver: AbstractResolver, gate: SocketGate, context: ssl.SSLContext, agent: str, connect_timeout: float
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=resolver, socket_factory=gate, ssl=context, limit=0, keepalive_timeout=IDLE, ttl_dns_cache=60
        ),
        headers={"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": agent},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=1 << 18,
    )


def _check_opt_out(response: aiohttp.ClientResponse) -> None:
    directive = opted_out(response.headers.getall("X-Robots-Tag", ()))
    if directive:
        raise Failure("opt_out", f"its owner withholds it: X-Robots-Tag: {directive}", False, response.status)


async def _body(response: aiohttp.ClientResponse, share: Share, most: int, cut: bool) -> bytes:
    """The body, of which never more than `most` is kept or unpacked."""
    expand = _expander(response)
    length = response.content_length
    if length is not None and length > most and not cut:
        raise Failure("too_large", f"{length:,} bytes are more than {most:,}", False, response.status)
    if length is not None and length > SMALL and not cut:
        await share.hold(most if expand else length)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += expand.decompress(chunk, most + 1 - len(body)) if expand else chunk
        if len(body) > SMALL:
            await share.hold(most)
        if len(body) > most:
            if cut:
                return bytes(body[:most])
            body.clear()  # at once: the frames of the exception would keep it until the collector comes
            raise Failure("too_large", f"more than {most:,} bytes", False, response.status)
    if expand and body and not expand.eof:
        raise Failure("truncated", "the compressed body ended before its end", True, response.status)
    return bytes(body)


def _refused(response: aiohttp.ClientResponse) -> Failure:
    status = response.status
    said = f"{response.url.host} answered {status} {response.reason or ''}".rstrip()
    if status == 429 or status >= 500:
        failure = Failure("rate_limited" if status == 429 else "server_error", said, True, status)
        failure.passing, failure.retry_after = True, _retry_after(response.headers)
        return failure
    kind = {404: "not_found", 410: "gone"}.get(status, "http_error")
    return Failure(kind, said, status in (408, 425), status)


def _broken(target: URL, error: Exception) -> Failure:
    """The failure that an exception of the client means."""
    cause = getattr(error, "os_error", None)
    words = f"{target.host}: {cause or error or type(error).__name__}"
    if isinstance(cause, ForbiddenAddress):
        return Failure("forbidden_address", str(cause))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure("dns", f"{target.host} has no address: {getattr(cause, 'strerror', None) or cause}", True)
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Failure("tls", words)
    if isinstance(error, aiohttp.ClientConnectorError):
        return Failure("connection", words, True)
    if isinstance(error, aiohttp.InvalidURL):
        return Failure("bad_url", words)
    if isinstance(error, aiohttp.ClientPayloadError) and "ConnectionResetError" not in str(error):
        return Failure("truncated", f"{target.host} ended the body before its end", True)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
        failure = Failure("connection", f"{target.host} broke the connection: {error}", True)
        failure.passing = True
        return failure
    return Failure("protocol", f"{target.host} gave an answer that can't be read: {error}")


def _expander(response: aiohttp.ClientResponse) -> "zlib._Decompress | None":
    """For servers that compress although asked not to."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Failure(
            "protocol", f"the body is encoded as {encoding!r}, which was not asked for", False, response.status
        )
    return zlib.decompressobj(zlib.MAX_WBITS | 32)


def _retry_after(headers: Headers) -> float | None:
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:9]), LONGEST_REST)
    try:
        seconds = parsedate_to_datetime(said).timestamp() - time.time() if said else None
        return None if seconds is None else min(max(0.0, seconds), LONGEST_REST)
    except (ValueError, TypeError, OverflowError):
        return None
