"""The verbs that look at a lake and change nothing: versions, diff, why, verify."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.options import (
    JsonOption,
    LakeOption,
    parse_version,
    write_json,
)


def versions(
    dataset: Annotated[str, typer.Argument(help="The dataset's name.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """List the versions of a dataset, newest first.

    Each with its samples, what changed, and the recipe and code that built it.

    Example: imagen versions shapes
    """
    from data.lake.lake import Lake
    from data.publish.versions import versions as find_versions

    published = find_versions(Lake.open(lake), dataset)
    if as_json:
        write_json([{"version": v.version, "at": v.at.isoformat(), **v.record} for v in published])
    else:
        from flows.terminal.data_tables import show_versions

        show_versions(published)


def diff(
    before: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    after: Annotated[str, typer.Argument(help="NAME@VERSION; the newest version if only NAME.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Compare two versions of a dataset.

    Rows that came in, rows that went out and why, and how the distribution of each score has shifted.

    Example: imagen diff shapes@1 shapes@2
    """
    from data.lake.lake import Lake
    from data.publish.versions import version_of
    from data.upkeep.diff import diff as find_diff

    opened = Lake.open(lake)
    (dataset, first), (other, second) = parse_version(before), parse_version(after)
    if dataset != other:
        raise typer.BadParameter(
            f"{before} and {after} are different datasets; only versions of one dataset can be compared"
        )
    numbers = [version_of(opened, dataset, number).version for number in (first, second)]
    difference = find_diff(opened, dataset, *numbers)
    if as_json:
        write_json(asdict(difference))
    else:
        from flows.terminal.data_tables import show_diff

        show_diff(difference, f"{dataset}@{numbers[0]}", f"{dataset}@{numbers[1]}")


def why(
    pair: Annotated[str, typer.Argument(help="The URL or the id of a pair.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Explain why a pair is in a dataset or not.

    Its source, every attempt to fetch it, its scores, and its verdict in each version.

    Example: imagen why http://example.org/cat.jpg
    """
    from data.lake.lake import Lake
    from data.upkeep.why import why as find_why

    stories = find_why(Lake.open(lake), pair)
    if as_json:
        write_json([asdict(story) for story in stories])
    else:
        from flows.terminal.data_tables import show_story

        for story in stories:
            show_story(story)


def verify(
    version: Annotated[str, typer.Argument(help="NAME@VERSION; the newest version if only NAME.")],
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Check a version against its lineage.

    Runs the selection again on the table versions that the lineage records, and reads the version's files again.
    Exit code 1 if anything differs.

    Example: imagen verify shapes@4
    """
    from data.lake.lake import Lake
    from data.upkeep.verify import verify as run_verification

    dataset, number = parse_version(version)
    verified = run_verification(Lake.open(lake), dataset, number)
    if as_json:
        write_json({"same": verified.same, **asdict(verified)})
    else:
        from flows.terminal.data_tables import show_verified

        show_verified(verified, f"{dataset}@{verified.version}")
    raise typer.Exit(0 if verified.same else 1)
