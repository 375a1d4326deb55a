"""Which addresses a fetch may reach: public ones, and those that the lake's configuration names. Nothing else, ever.

Checked when a name is resolved and again when the socket is made, on the very address that is about to be connected to.
"""

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")


class ForbiddenAddress(OSError):
    """An address that no fetch may reach."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet; IPv4 that hides in IPv6 is judged as what it is."""
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if address in NAT64:
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if hidden:
            return is_public(hidden)
        if address in NAT64_LOCAL or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def literal(host: str) -> Address | None:
    """The address that a host is, if it is one and no name."""
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0])
    except ValueError:
        return None


class Gate(AbstractResolver):
    """Resolves names, and lets no connection through to an address that is not allowed."""

    def __init__(self, hosts: Mapping[str, str], resolver: AbstractResolver | None = None) -> None:
        self.hosts = {name.lower(): _endpoint(address) for name, address in hosts.items()}
        self.opened = {endpoint[0] for endpoint in self.hosts.values()}
        self.resolver = resolver or ThreadedResolver()

    def named(self, host: str) -> tuple[Address, int | None] | None:
        """Where the lake's configuration says that a host is."""
        name = host.lower().rstrip(".")
        found = self.hosts.get(name)
        while found is None and "." in name:
            name = name.partition(".")[2]
            found = self.hosts.get(f"*.{name}")
        return found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        endpoint = self.named(host)
        if endpoint is not None:
            address, at = endpoint
            kind = socket.AF_INET6 if address.version == 6 else socket.AF_INET
            return [_result(host, str(address), at or port, kind)]
        found = await self.resolver.resolve(host, port, family)
        for one in found:
            address = ipaddress.ip_address(one["host"].split("%")[0])
            if not is_public(address):
                raise ForbiddenAddress(f"{host} is at {address}, which is not public")
        return found

    def open_socket(self, info: Any) -> socket.socket:
        """Make the socket of a connection: the last place where an address can be refused, and none goes around it."""
        family, kind, protocol, _, target = info
        address = ipaddress.ip_address(str(target[0]).split("%")[0])
        if not is_public(address) and address not in self.opened:
            raise ForbiddenAddress(f"{address} is not public")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self.resolver.close()


def _endpoint(text: str) -> tuple[Address, int | None]:
    """`address`, `address:port` or `[address]:port`."""
    address = literal(text)
    if address is not None:
        return address, None
    host, _, port = text.rpartition(":")
    address = literal(host)
    if address is None or not port.isdigit():
        raise ValueError(f"{text!r} is no address or address:port")
    return address, int(port)


def _result(host: str, address: str, port: int, family: socket.AddressFamily) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
