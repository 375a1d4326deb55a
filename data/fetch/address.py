"""Restricts fetches to public network addresses, by two checks.

`PublicResolver` checks when a name is resolved, to give an early and clear error. `public_socket` checks when the
socket is created, so no name and no redirect can bypass it. Hosts that are named in the lake's configuration have their
own two checks (`NamedHosts`). Only these hosts may have addresses that are not public.
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
SocketFactory = Callable[[AddressInfo], socket.socket]

RESOLVER_THREADS = 32  # simultaneous lookups; a name that does not resolve blocks its thread for many seconds

# Special ranges that `is_global` of some Python versions does not know, or reports as global.
SPECIAL_NETWORKS = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "168.63.129.16/32",  # a cloud provider's internal services, on an address that looks public
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "224.0.0.0/3",  # multicast and reserved
        "2001::/23",  # Teredo and others
        "2001:db8::/32",
        "3fff::/20",
    )
]
UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LEGACY_IPV4 = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)


class ForbiddenAddress(OSError):
    """A fetch tried to connect to an address that is not allowed."""


def matching_domain(host: str, domains: Container[str]) -> str | None:
    """Return the most specific of `domains` that is the host itself or a parent domain of it. None if none is."""
    labels = host.lower().rstrip(".").split(".")
    for start in range(len(labels)):
        domain = ".".join(labels[start:])
        if domain in domains:
            return domain
    return None


def refusal(address: str) -> str | None:
    """Return the reason, in words, why connecting to an IP address is forbidden. None if the address is public."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"{address} is not an IP address"
    if isinstance(ip, ipaddress.IPv6Address):
        ipv4 = _embedded_ipv4(ip)
        if ipv4 is not None:
            reason = refusal(str(ipv4))
            return reason and f"{address} leads to {ipv4}: {reason}"
    public = ip.is_global and not any(ip in network for network in SPECIAL_NETWORKS)
    if not public or (isinstance(ip, ipaddress.IPv6Address) and (ip not in UNICAST or ip.scope_id)):
        return f"{address} is not a public address"
    return None


def _embedded_ipv4(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which packets for an IPv6 address are delivered (IPv4-mapped, 6to4 and NAT64)."""
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def ip_literal(host: str) -> str | None:
    """Return the usual notation of a host that is an IP address in any notation that resolvers accept.

    Returns None if the host is a name.

    Example:
        >>> ip_literal("0x7f000001")
        '127.0.0.1'
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not LEGACY_IPV4.fullmatch(host):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def public_socket(info: AddressInfo) -> socket.socket:
    """Create a socket for a public address.

    Raises:
        ForbiddenAddress: the address is not public. This does not depend on the name or redirect that led to it.
    """
    reason = refusal(info[4][0])
    if reason:
        raise ForbiddenAddress(reason)
    return socket.socket(info[0], info[1], info[2])


class SystemResolver(AbstractResolver):
    """The system's resolver on its own threads.

    On the event loop's thread pool, names that do not resolve would block all threads.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "resolve")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises `OSError` if it has none."""
        infos = await asyncio.get_running_loop().run_in_executor(
            self._threads, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        return [_resolve_result(host, str(info[4][0]), port) for info in infos]

    async def close(self) -> None:
        """Cancel the waiting lookups. Does not wait for running lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class PublicResolver(AbstractResolver):
    """Resolves names with another resolver, and refuses a name if any of its addresses is not public."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name, all of which are public.

        Raises:
            ForbiddenAddress: one of the addresses is not public.
            OSError: the name has no address.
        """
        addresses = await self._resolver.resolve(host, port, family)
        for address in addresses:
            reason = refusal(address["host"])
            if reason:
                raise ForbiddenAddress(f"{host} resolves to an address that is not allowed: {reason}")
        if not addresses:
            raise OSError(f"{host} has no address")
        return addresses

    async def close(self) -> None:
        """Close the wrapped resolver."""
        await self._resolver.close()


class NamedHosts(AbstractResolver):
    """Hosts with a configured address, as in /etc/hosts.

    Args:
        hosts: maps a name, or `*.name` for all its subdomains, to `address` or `address:port`.

    Raises:
        ValueError: a value is neither an address nor address:port.
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self._endpoints = {name.lower().rstrip("."): _parse_endpoint(name, value) for name, value in hosts.items()}

    def find(self, host: str) -> Endpoint | None:
        """Find the address and port of a host, by its exact name or else by the longest matching `*.name`."""
        host = host.lower().rstrip(".")
        if host in self._endpoints or not self._endpoints:
            return self._endpoints.get(host)
        labels = host.split(".")
        for start in range(1, len(labels)):
            wildcard = ".".join(["*", *labels[start:]])
            if wildcard in self._endpoints:
                return self._endpoints[wildcard]
        return None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the configured address of a host. Raises `OSError` if the host is not configured."""
        endpoint = self.find(host)
        if endpoint is None:
            raise OSError(f"{host} is not a configured host")
        return [_resolve_result(host, endpoint[0], endpoint[1] or port)]

    def socket(self, info: AddressInfo) -> socket.socket:
        """Create a socket for a configured endpoint.

        Raises:
            ForbiddenAddress: no host is configured at this address and port.
        """
        address, port = info[4][:2]
        allowed = self._endpoints.values()
        if (address, port) not in allowed and (address, None) not in allowed:
            raise ForbiddenAddress(f"no host is configured at {address}, port {port}")
        return socket.socket(info[0], info[1], info[2])

    async def close(self) -> None:
        """Do nothing, since nothing is open. aiohttp calls this method."""


def _parse_endpoint(name: str, value: str) -> Endpoint:
    has_port = re.search(r"(\]|^[0-9.]+):\d+$", value)
    address, _, port = value.rpartition(":") if has_port else (value, "", "")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(port) if port else None
    except ValueError:
        raise ValueError(f"host {name}: {value!r} is neither an address nor address:port") from None


def _resolve_result(name: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=name, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST)
