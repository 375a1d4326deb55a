"""The options that several verbs of the `imagen` command share, and functions that write results."""

import json
import sys
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[str, typer.Argument(help="A recipe (.yaml), or the name of a shipped one.")]
LakeOption = Annotated[str, typer.Option("--lake", envvar="IMAGEN_LAKE", help="Folder or URL of the lake.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, show_default=False, help="Worker processes; one per core if not given.")
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", show_default=False, help="Read this file instead of the recipe's sources."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", show_default=False, help="Change a value of the recipe: select.clip_score.min=0.3."),
]


def write_json(value: Any) -> None:
    """Write a value to standard output as one JSON document."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def pluralize(count: int, noun: str) -> str:
    """Format a count with its noun: 1 pair, 2 pairs."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def parse_version(reference: str) -> tuple[str, int | None]:
    """Parse NAME@VERSION, such as shapes@3; the version is None if there is only a name.

    Raises:
        BadParameter: the version is not a number.
    """
    name, at, version = reference.partition("@")
    if at and not version.isdigit():
        raise typer.BadParameter(f"{reference!r} is not NAME@VERSION, such as shapes@3")
    return name, int(version) if at else None


def check_buckets(buckets: int) -> None:
    """Refuse a number of buckets that is not a power of two, or too large."""
    if not 1 <= buckets <= 65_536 or buckets & (buckets - 1):
        raise typer.BadParameter(f"{buckets} is not a power of two from 1 to 65536", param_hint="--buckets")
