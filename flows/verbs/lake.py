"""The verbs that make and configure lakes."""

import sys
from typing import Annotated

import typer

from flows.terminal.options import LakeOption, check_buckets


def make(
    url: Annotated[str, typer.Argument(help="An empty folder or bucket prefix.")],
    buckets: Annotated[int, typer.Option(help="4 for a laptop, 256 and more for hundreds of millions of rows.")] = 4,
) -> None:
    """Make a lake in an empty place.

    Before that, concurrent writers test that the store loses no commits.

    Example: imagen lake make s3://bucket/lake --buckets 256
    """
    check_buckets(buckets)
    from data.lake.lake import Lake

    Lake.make(url, buckets)
    sys.stdout.write(f"{url}: a lake of {buckets} buckets\n")


def allow(
    name: Annotated[str, typer.Argument(help="Name of the host, or *.name.")],
    address: Annotated[str, typer.Argument(help="Its address, or address:port.")],
    lake: LakeOption = "lake",
) -> None:
    """Allow a host with a private address.

    The host is fetched from that address, as an entry in /etc/hosts would do. All other private addresses stay refused.

    Example: imagen lake allow pictures.corp 10.2.0.7:8080
    """
    from data.lake.lake import Lake

    Lake.open(lake).allow_host(name, address)
    sys.stdout.write(f"{lake}: {name} is fetched from {address}\n")
