"""The fetch: what each misbehaviour becomes, and that no connection ever reaches an address that is not allowed."""

import asyncio
import gzip
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from data.fetch.fetcher import Fetcher, FetchResult, FetchSettings, Validators
from data.world.server import OriginServer
from tests.servers.small_world import jpeg, make_small_world

NAME = "shapes.test"
QUICK = {"per_host_rate": 10_000.0, "retry_wait": 0.05}
PUBLIC = "8.8.8.8"
connected: list[tuple[object, ...]] = []
watching = False


def watch(event: str, args: tuple[object, ...]) -> None:
    if watching and event == "socket.connect":
        connected.append(args[1])  # type: ignore[arg-type]
        if isinstance(args[1], tuple) and args[1][0] == PUBLIC:
            raise ConnectionRefusedError("a test reaches nobody outside")


sys.addaudithook(watch)  # the interpreter reports every connect, of any library


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def small_origin(small_world: Path) -> Iterator[OriginServer]:
    with OriginServer(small_world) as server:
        yield server


def fetch(
    *urls: str, hosts: dict[str, str] | None = None, resolver: AbstractResolver | None = None, **settings: object
) -> list[FetchResult]:
    async def run() -> list[FetchResult]:
        fetch_settings = FetchSettings(**{**QUICK, **settings})  # type: ignore[arg-type]
        async with Fetcher(fetch_settings, hosts or {}, resolver=resolver) as fetcher:
            return list(await asyncio.gather(*map(fetcher.fetch, urls)))

    return asyncio.run(run())


class Canary:
    """A listener on loopback that nobody may reach."""

    def __enter__(self) -> "Canary":
        self.visits = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self) -> None:
        while True:
            try:
                self.socket.accept()[0].close()
            except OSError:
                return
            self.visits += 1

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class ScriptedResolver(AbstractResolver):
    """A resolver that gives one answer after the other, the last one for ever."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.calls = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.addresses[min(self.calls, len(self.addresses) - 1)]
        self.calls += 1
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)]

    async def close(self) -> None:
        pass


FORBIDDEN = [
    "http://127.0.0.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://017700000001:{port}/",
    "http://127.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://[::]:{port}/",
    "http://localhost:{port}/",
    "http://localhost.:{port}/",
    "http://user@127.0.0.1:{port}/",
    "http://8.8.8.8@127.0.0.1:{port}/",
    "http://8.8.8.8%2f@127.0.0.1:{port}/",
    "http://①②⑦.0.0.1:{port}/",
    "http://127。0。0。1:{port}/",
    "http://169.254.169.254/",
    "http://[fe80::1%25lo]:{port}/",
    "http://100.64.0.1/",
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[fc00::1]/",
    "http://[ff02::1]/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://[2001::1]/",
    "https://127.0.0.1:{port}/",
    "http://168.63.129.16/",
]
SCHEMES = [
    "file:///etc/passwd",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/",
    "data:image/png;base64,AAAA",
    "javascript:1",
]


@pytest.mark.parametrize("respect_robots", [True, False])
def test_no_connection_ever_reaches_an_address_that_is_not_allowed(tmp_path: Path, respect_robots: bool) -> None:
    global watching
    with Canary() as canary:
        world = make_small_world(tmp_path, private=f"http://127.0.0.1:{canary.port}/secret")
        with OriginServer(world) as origin:
            urls = [url.format(port=canary.port) for url in FORBIDDEN + SCHEMES]
            tricks = [f"http://{NAME}/p/redirect_private.jpg", f"http://{NAME}/p/to_file.jpg"]
            connected.clear()
            watching = True
            try:
                settings = {"respect_robots": respect_robots, "timeout": 5.0, "connect_timeout": 2.0}
                hosts = {NAME: origin.address}
                refused = fetch(*urls, *tricks, hosts=hosts, **settings)
                rebinding = ScriptedResolver("127.0.0.1")
                refused += fetch(f"http://evil.test:{canary.port}/", hosts=hosts, resolver=rebinding, **settings)
                # the very endpoint of a named host, under a name that is not its own
                port = origin.address.split(":")[1]
                refused += fetch(f"http://evil.test:{port}/p/ok0.jpg", hosts=hosts, resolver=rebinding, **settings)
                assert fetch(f"http://{NAME}/p/ok0.jpg", hosts=hosts, **settings)[0].status == "ok"
            finally:
                watching = False
        for fetched in refused:
            assert fetched.status in ("forbidden_address", "forbidden_scheme", "bad_url", "dns"), fetched
            assert fetched.body is None
            assert fetched.error
        reached = {address[:2] for address in connected if isinstance(address, tuple) and address[1] != 53}
        assert reached == {("127.0.0.1", int(port))}
        assert canary.visits == 0


def test_a_name_that_turns_private_after_its_first_answer_is_not_followed() -> None:
    global watching
    resolver = ScriptedResolver("203.0.113.7", "127.0.0.1")  # a documentation address, never connected to either
    assert fetch("http://rebind.test/", resolver=resolver, respect_robots=False)[0].status == "forbidden_address"
    public_then_private = ScriptedResolver(PUBLIC, "127.0.0.1")
    with Canary() as canary:
        connected.clear()
        watching = True
        try:

            async def twice() -> list[FetchResult]:
                settings = FetchSettings(respect_robots=False, connect_timeout=0.3, timeout=1.0, **QUICK)
                async with Fetcher(settings, resolver=public_then_private) as fetcher:
                    first = await fetcher.fetch(f"http://rebind.test:{canary.port}/")
                    second = await fetcher.fetch(f"http://rebind.test:{canary.port + 1}/")  # asks the resolver again
                    return [first, second]

            first, second = asyncio.run(twice())
        finally:
            watching = False
        assert first.status == "connection"
        assert second.status == "forbidden_address"
        assert {address[0] for address in connected if isinstance(address, tuple)} == {PUBLIC}
        assert canary.visits == 0


@pytest.mark.parametrize(
    ("page", "status", "transient"),
    [
        ("ok0", "ok", False),
        ("redirect", "ok", False),
        ("heals", "ok", False),
        ("html", "ok", False),
        ("not_found", "not_found", False),
        ("nowhere", "not_found", False),
        ("gone", "gone", False),
        ("unavailable", "server_error", True),
        ("timeout", "timeout", True),
        ("drip", "timeout", True),
        ("reset", "connection", True),
        ("truncated", "truncated", True),
        ("huge", "too_large", False),
        ("redirect_loop", "redirects", False),
        ("redirect_private", "forbidden_address", False),
        ("to_file", "forbidden_scheme", False),
        ("noai", "opt_out", False),
    ],
)
def test_each_misbehaviour_has_its_status(small_origin: OriginServer, page: str, status: str, transient: bool) -> None:
    fetched = fetch(f"http://{NAME}/p/{page}.jpg", hosts={NAME: small_origin.address}, timeout=1.0)[0]
    assert (fetched.status, fetched.transient) == (status, transient), fetched
    assert (fetched.error is None) == (status == "ok")
    assert (fetched.body is not None) == (status == "ok")
    if page in ("ok0", "redirect", "heals"):
        assert fetched.body == jpeg()
        assert fetched.http_status == 200
        assert fetched.content_type == "image/jpeg"


def test_what_robots_txt_forbids_is_not_requested(small_origin: OriginServer) -> None:
    url, hosts = f"http://{NAME}/closed/a.jpg", {NAME: small_origin.address}
    refused = fetch(url, hosts=hosts)[0]
    assert (refused.status, refused.transient) == ("robots", False)
    assert fetch(url, hosts=hosts, respect_robots=False)[0].status == "ok"


def test_a_blocked_domain_and_its_subdomains_are_not_requested(small_origin: OriginServer) -> None:
    hosts = {NAME: small_origin.address, f"*.{NAME}": small_origin.address}
    results = fetch(f"http://{NAME}/p/ok0.jpg", f"http://a.b.{NAME}./p/ok0.jpg", hosts=hosts, blocked_domains=(NAME,))
    assert [result.status for result in results] == ["blocked", "blocked"]


@pytest.mark.parametrize(
    "url", ["", "   ", "no url", "http://", "http:///p", "//x/y", "http://a:99999/", "http://a b/"]
)
def test_what_is_no_url_is_a_row_and_not_an_exception(url: str) -> None:
    assert fetch(url)[0].status == "bad_url"


class Script:
    """A server that gives the answers of a list in order, the last one for ever, and counts."""

    def __init__(self, *answers: bytes, robots: bytes = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n") -> None:
        self.answers, self.robots = list(answers), robots
        self.heads: list[bytes] = []
        self.connections = self.at_once = self.busiest = 0
        self.wait = 0.0

    async def __aenter__(self) -> str:
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.at_once += 1
                self.busiest = max(self.busiest, self.at_once)
                if b"/robots.txt" in head:
                    writer.write(self.robots)
                else:
                    self.heads.append(head)
                    await asyncio.sleep(self.wait)
                    writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                self.at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


def scripted(script: Script, *paths: str, **settings: object) -> list[FetchResult]:
    async def run() -> list[FetchResult]:
        async with script as address, Fetcher(FetchSettings(**{**QUICK, **settings}), {NAME: address}) as fetcher:  # type: ignore[arg-type]
            return list(await asyncio.gather(*(fetcher.fetch(f"http://{NAME}{path}") for path in paths)))

    return asyncio.run(run())


def test_connections_are_kept_and_never_more_than_per_host() -> None:
    script = Script(answer(b"x" * 1000))
    script.wait = 0.01
    results = scripted(script, *(f"/{n}" for n in range(60)), per_host=3)
    assert {result.status for result in results} == {"ok"}
    assert script.busiest == 3
    assert script.connections <= 4


def test_requests_to_one_host_keep_to_the_rate() -> None:
    began = time.monotonic()
    scripted(Script(answer(b"x")), *(f"/{n}" for n in range(20)), per_host_rate=20.0, respect_robots=False)
    assert time.monotonic() - began > 0.85


def test_a_wait_for_ones_turn_is_no_time_out() -> None:
    script = Script(answer(b"x"))
    script.wait = 0.3
    results = scripted(script, *(f"/{n}" for n in range(6)), per_host=1, timeout=1.0)
    assert {result.status for result in results} == {"ok"}


def test_the_request_says_who_asks_and_gives_no_password_away() -> None:
    script = Script(answer(b"x"))

    async def run() -> None:
        async with (
            script as address,
            Fetcher(FetchSettings(contact="https://example.org/bot"), {NAME: address}) as fetcher,
        ):
            await fetcher.fetch(f"http://user:secret@{NAME}/a?b=c#d")

    asyncio.run(run())
    head = script.heads[0].decode()
    assert head.startswith("GET /a?b=c HTTP/1.1")
    assert "imagen-dataset/" in head
    assert "https://example.org/bot" in head
    assert "Mozilla" not in head
    assert "uthorization" not in head


def test_a_compressed_body_is_unpacked_within_the_same_bound() -> None:
    good = answer(gzip.compress(b"y" * 50_000), "Content-Encoding: gzip")
    assert scripted(Script(good), "/a")[0].body == b"y" * 50_000
    bomb = answer(gzip.compress(bytes(30_000_000)), "Content-Encoding: gzip")
    assert scripted(Script(bomb), "/a")[0].status == "too_large"


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_left_for_another_day() -> None:
    short = Script(answer(b"", "Retry-After: 1", status="429 Slow"), answer(b"x"))
    began = time.monotonic()
    assert scripted(short, "/a")[0].status == "ok"
    assert time.monotonic() - began > 0.9
    long = scripted(Script(answer(b"", "Retry-After: 3600", status="429 Slow"), answer(b"x")), "/a")[0]
    assert (long.status, long.transient, long.retry_after) == ("rate_limited", True, 3600.0)
    endless = scripted(Script(answer(b"", "Retry-After: 99999999999", status="503 Down")), "/a")[0]
    assert (endless.status, endless.retry_after) == ("server_error", 7 * 24 * 3600.0)


def test_while_a_host_rests_for_a_second_the_others_wait_and_are_then_sent() -> None:
    short = Script(answer(b"", "Retry-After: 1", status="429 Slow"), answer(b"x"))
    assert [result.status for result in scripted(short, "/a", "/b", "/c", "/d", per_host=1)] == ["ok"] * 4
    assert len(short.heads) == 5


def test_while_a_host_rests_for_an_hour_the_others_are_not_sent_and_say_so() -> None:
    long = Script(answer(b"", "Retry-After: 3600", status="503 Down"))
    began = time.monotonic()
    results = scripted(long, *(f"/{n}" for n in range(100)), per_host=1, per_host_rate=2.0)
    assert time.monotonic() - began < 3, "those in the queue leave it at once"
    assert len(long.heads) == 1
    assert {(result.status, result.transient) for result in results} == {("server_error", True)}
    assert [result.http_status for result in results].count(503) == 1
    not_requested = next(result for result in results if result.http_status is None)
    assert not_requested.error == f"{NAME}: not requested: the host asked to wait 3600 s more"
    assert not_requested.retry_after == pytest.approx(3600, abs=3)


@dataclass(frozen=True)
class Revalidation:
    """A URL that redirects to the one that gave a tag, then a URL that did not give it, and the requests for both."""

    redirected: FetchResult
    other: FetchResult
    heads: list[bytes]


@pytest.fixture(scope="module")
def revalidation() -> Revalidation:
    script = Script(answer(b"", "Location: /b", status="302 Found"), answer(b"", 'ETag: "2"', status="304 Same"))

    async def run() -> list[FetchResult]:
        async with script as address, Fetcher(FetchSettings(respect_robots=False), {NAME: address}) as fetcher:
            before = Validators(f"http://{NAME}/b", '"1"', "Thu, 01 Jan 2026 00:00:00 GMT")
            other = fetcher.fetch(f"http://{NAME}/c", Validators(f"http://{NAME}/b", '"1"', None))
            return [await fetcher.fetch(f"http://{NAME}/a", before), await other]

    redirected, other = asyncio.run(run())
    return Revalidation(redirected, other, script.heads)


def test_only_the_request_for_the_url_that_gave_the_tag_carries_it(revalidation: Revalidation) -> None:
    assert b"If-None-Match" not in revalidation.heads[0]
    assert b'If-None-Match: "1"' in revalidation.heads[1]
    assert b"If-Modified-Since: Thu, 01 Jan 2026" in revalidation.heads[1]
    assert b"If-None-Match" not in revalidation.heads[2]


def test_not_modified_is_an_answer_only_to_a_request_with_a_tag(revalidation: Revalidation) -> None:
    same = revalidation.redirected
    assert (same.status, same.error, same.body, same.etag) == ("unchanged", None, None, '"2"')
    assert same.last_modified == "Thu, 01 Jan 2026 00:00:00 GMT", "what the answer leaves out still holds"
    assert revalidation.other.status == "http_error"


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ("noai", "opt_out"),
        ("index, NoImageAI", "opt_out"),
        ("noindex, unavailable_after: 25 Jun 2030 15:00:00 PST", "opt_out"),
        ("otherbot: noai", "ok"),
        ("imagen-dataset: noai", "opt_out"),
        ("nofollow", "ok"),
    ],
)
def test_opt_out_headers_are_honoured(tag: str, status: str) -> None:
    assert scripted(Script(answer(b"x", f"X-Robots-Tag: {tag}")), "/a")[0].status == status


def test_a_robots_txt_that_cannot_be_fetched_puts_the_picture_off() -> None:
    fetched = scripted(Script(answer(b"x"), robots=answer(b"", status="503 Down")), "/a")[0]
    assert (fetched.status, fetched.transient) == ("robots", True)


def test_a_hostile_robots_txt_takes_neither_time_nor_memory() -> None:
    hostile = "".join(f"User-agent: a{n}\n" for n in range(12_000)) + "".join(
        f"Disallow: /{n}*a\n" for n in range(12_000)
    )
    began = time.monotonic()
    results = scripted(Script(answer(b"x"), robots=answer(hostile.encode())), "/a")
    assert results[0].status == "ok"
    assert time.monotonic() - began < 5


def test_https_is_checked_against_the_name(small_world: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    cert = authority.issue_cert(NAME)
    (tmp_path / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in cert.cert_chain_pems))
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate = (str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))
    with OriginServer(small_world, certificate=certificate) as origin:
        hosts = {NAME: origin.address, "other.test": origin.address}

        async def run(certificates: str | None) -> list[FetchResult]:
            async with Fetcher(FetchSettings(timeout=5, **QUICK), hosts, certificates=certificates) as fetcher:
                return [await fetcher.fetch(f"https://{name}/p/ok0.jpg") for name in hosts]

        right, wrong = asyncio.run(run(str(tmp_path / "ca.pem")))
        assert right.status == "ok", right
        assert wrong.status == "tls"
        assert {fetched.status for fetched in asyncio.run(run(None))} == {"tls"}


@pytest.mark.slow
def test_memory_stays_small_through_huge_bodies_and_bombs(small_world: Path) -> None:
    """In a process of its own, whose peak is its own."""
    with OriginServer(small_world) as origin:
        program = f"""
            import asyncio, io
            from pathlib import Path
            from concurrent.futures import ThreadPoolExecutor
            from PIL import Image
            from data.fetch.fetcher import Fetcher, FetchSettings
            from data.pictures.header import PictureError
            from data.pictures.prepare import PictureSettings, prepare

            async def main():
                settings = FetchSettings(per_host=64, per_host_rate=10_000.0)
                async with Fetcher(settings, {{"shapes.test": "{origin.address}"}}) as fetcher:
                    urls = ["http://shapes.test/p/huge.jpg"] * 24
                    results = await asyncio.gather(*map(fetcher.fetch, urls))
                    assert {{result.status for result in results}} == {{"too_large"}}, results

            def bomb(side):
                buffer = io.BytesIO()
                Image.new("L", (side, side)).save(buffer, "PNG")
                return buffer.getvalue()

            def refused(body):
                try:
                    prepare(body, PictureSettings())
                except PictureError as error:
                    return error.status

            asyncio.run(main())
            bombs = [bomb(13_000)]
            with ThreadPoolExecutor(2) as threads:
                assert set(threads.map(refused, bombs * 8)) == {{"too_many_pixels"}}
            # Not ru_maxrss, which begins with that of the process that started this one.
            print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000  # kB
