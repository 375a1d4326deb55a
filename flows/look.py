"""The verbs that look at a lake and change nothing: versions, diff, why, verify."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.options import JsonOption, LakeOption, named, write_json


def versions(
    dataset: Annotated[str, typer.Argument(help="The dataset's name.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """The versions of a dataset, newest first, each with what changed and what made it.

    Example: imagen versions shapes
    """
    from data.lake import Lake
    from data.versions import versions as find_versions

    found = find_versions(Lake.open(lake), dataset)
    if as_json:
        write_json([{"version": v.version, "at": v.at.isoformat(), **v.record} for v in found])
    else:
        from flows.show import show_versions

        show_versions(found)


def diff(
    before: Annotated[str, typer.Argument(help="NAME@VERSION")],
    after: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for the newest")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """What changed between two versions: rows in, rows out, and why; and how each score has shifted.

    Example: imagen diff shapes@1 shapes@2
    """
    from data.diff import diff as find_diff
    from data.lake import Lake
    from data.versions import version_of

    opened = Lake.open(lake)
    (dataset, first), (other, second) = named(before), named(after)
    if dataset != other:
        raise typer.BadParameter(f"{before} and {after} are two datasets; versions of one can be compared")
    numbers = [version_of(opened, dataset, number).version for number in (first, second)]
    found = find_diff(opened, dataset, *numbers)
    if as_json:
        write_json(asdict(found))
    else:
        from flows.show import show_diff

        show_diff(found, f"{dataset}@{numbers[0]}", f"{dataset}@{numbers[1]}")


def why(
    pair: Annotated[str, typer.Argument(help="A pair's URL or id.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """One pair's whole story: its source, every attempt to fetch it, its scores, its verdict in each version.

    Example: imagen why http://example.org/cat.jpg
    """
    from data.lake import Lake
    from data.why import why as find_why

    stories = find_why(Lake.open(lake), pair)
    if as_json:
        write_json([asdict(story) for story in stories])
    else:
        from flows.show import show_story

        for story in stories:
            show_story(story)


def verify(
    version: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for the newest")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Select again from the tables that a version's lineage names, and read its files again. Exit code 1 if it differs.

    Example: imagen verify shapes@4
    """
    from data.lake import Lake
    from data.verify import verify as find_verified

    dataset, number = named(version)
    found = find_verified(Lake.open(lake), dataset, number)
    if as_json:
        write_json({"same": found.same, **asdict(found)})
    else:
        from flows.show import show_verified

        show_verified(found, f"{dataset}@{found.version}")
    raise typer.Exit(0 if found.same else 1)
