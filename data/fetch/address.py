"""Which addresses a fetch may connect to, and the gates that hold it to them: one where names are resolved, for a
clear answer early, and one where sockets are made, which nothing passes. Named hosts of the lake's configuration have
gates of their own, so that only they reach what is not public.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
Endpoint = tuple[str, int | None]

RESOLVING = 32  # lookups at once; a dead name blocks its thread for many seconds

# Special ranges that `is_global` of some Python does not know, or calls global.
SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "168.63.129.16/32",  # a cloud's own services, on an address that looks public
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "224.0.0.0/3",  # multicast and reserved
        "2001::/23",  # Teredo among others
        "2001:db8::/32",
        "3fff::/20",
    )
]
UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LEGACY = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)


class ForbiddenAddress(OSError):
    """An address that a fetch must not connect to."""


def domain_among(host: str, domains: Container[str]) -> str | None:
    """The host itself, or the nearest domain above it, that is among some."""
    labels = host.lower().rstrip(".").split(".")
    return next((name for n in range(len(labels)) if (name := ".".join(labels[n:])) in domains), None)


def refusal(address: str) -> str | None:
    """Why an address must not be connected to, in words; None when it is public."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"{address} is not an address"
    if isinstance(ip, ipaddress.IPv6Address):
        inner = _embedded(ip)
        if inner is not None:
            reason = refusal(str(inner))
            return reason and f"{address} leads to {inner}: {reason}"
    public = ip.is_global and not any(ip in network for network in SPECIAL)
    if not public or (isinstance(ip, ipaddress.IPv6Address) and (ip not in UNICAST or ip.scope_id)):
        return f"{address} is not a public address"
    return None


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at: IPv4-mapped, 6to4 and NAT64."""
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def literal(host: str) -> str | None:
    """The plain form of a host that is an address in any notation a resolver takes (127.1, 0x7f000001); else None."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not LEGACY.fullmatch(host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def public_socket(info: AddressInfo) -> socket.socket:
    """The gate: no socket for an address that is not public, whatever name or redirect led here."""
    reason = refusal(info[4][0])
    if reason:
        raise ForbiddenAddress(reason)
    return socket.socket(info[0], info[1], info[2])


class SystemResolver(AbstractResolver):
    """The system's resolver on threads of its own: the loop's few would all wait for dead names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVING, "resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        infos = await asyncio.get_running_loop().run_in_executor(
            self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        return [_result(host, str(info[4][0]), port) for info in infos]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class PublicResolver(AbstractResolver):
    """A resolver of which a name that leads anywhere but to public addresses gets an error, not an answer."""

    def __init__(self, names: AbstractResolver) -> None:
        self._names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        for result in found:
            reason = refusal(result["host"])
            if reason:
                raise ForbiddenAddress(f"{host} resolves to an address that is not allowed: {reason}")
        if not found:
            raise OSError(f"{host} has no address")
        return found

    async def close(self) -> None:
        await self._names.close()


class Hosts(AbstractResolver):
    """The named hosts, like /etc/hosts: a name or `*.name` to `address` or `address:port`."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._endpoints = {name.lower().rstrip("."): _endpoint(name, to) for name, to in hosts.items()}

    def find(self, host: str) -> Endpoint | None:
        """Where a host leads: the exact name's, else that of the longest `*.name` that it ends with."""
        host = host.lower().rstrip(".")
        if host in self._endpoints or not self._endpoints:
            return self._endpoints.get(host)
        labels = host.split(".")
        wildcards = (".".join(["*", *labels[n:]]) for n in range(1, len(labels)))
        return next((self._endpoints[name] for name in wildcards if name in self._endpoints), None)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        endpoint = self.find(host)
        if endpoint is None:
            raise OSError(f"{host} is not a configured host")
        return [_result(host, endpoint[0], endpoint[1] or port)]

    def socket(self, info: AddressInfo) -> socket.socket:
        """The gate of the named hosts: a socket for a configured endpoint and for nothing else."""
        address, port = info[4][:2]
        allowed = self._endpoints.values()
        if (address, port) not in allowed and (address, None) not in allowed:
            raise ForbiddenAddress(f"{address}, port {port} is not where a configured host leads")
        return socket.socket(info[0], info[1], info[2])

    async def close(self) -> None:
        pass


SocketGate = Callable[[AddressInfo], socket.socket]


def _endpoint(name: str, to: str) -> Endpoint:
    address, _, port = to.rpartition(":") if re.search(r"(\]|^[0-9.]+):\d+$", to) else (to, "", "")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(port) if port else None
    except ValueError:
        raise ValueError(f"host {name}: {to!r} is neither an address nor address:port") from None


def _result(name: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=name, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
