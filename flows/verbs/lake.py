"""The verbs that make and configure lakes."""

import sys
from typing import Annotated

import typer

from flows.terminal.options import LakeOption, check_buckets


def make(
    url: Annotated[str, typer.Argument(help="An empty folder or bucket prefix.")],
    buckets: Annotated[int, typer.Option(help="4 for a laptop, 256 and more for hundreds of millions of rows.")] = 4,
) -> None:
    """Make a lake, after a race has shown that the store keeps concurrent commits.

    Example: imagen lake make s3://bucket/lake --buckets 256
    """
    check_buckets(buckets)
    from data.lake.lake import Lake

    Lake.make(url, buckets)
    sys.stdout.write(f"{url}: a lake of {buckets} buckets\n")


def allow(
    name: Annotated[str, typer.Argument(help="A host's name, or *.name.")],
    address: Annotated[str, typer.Argument(help="Where it is: address or address:port.")],
    lake: LakeOption = "lake",
) -> None:
    """Let a named host be fetched from a private address, as /etc/hosts would say it. All others stay refused.

    Example: imagen lake allow pictures.corp 10.2.0.7:8080
    """
    from data.lake.lake import Lake

    Lake.open(lake).allow_host(name, address)
    sys.stdout.write(f"{lake}: {name} is fetched from {address}\n")
