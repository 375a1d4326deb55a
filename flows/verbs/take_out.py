"""The verbs that take data out of a lake: export copies it, forget and vacuum remove it."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.terminal.options import JsonOption, LakeOption, parse_version, pluralize, write_json


def forget(
    url: Annotated[str | None, typer.Option(help="Erase the pairs of this URL.", show_default=False)] = None,
    id: Annotated[str | None, typer.Option(help="Erase the pair with this id.", show_default=False)] = None,
    domain: Annotated[str | None, typer.Option(help="Erase all pairs of this domain.", show_default=False)] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Erase the pairs whose picture had this SHA-256.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, stored in the blocklist.")] = "asked to",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Erase pairs from the lake and block them for good.

    The pairs leave every table, every file and every old version, and no later build takes them in again. Old versions
    stay readable without them.

    Example: imagen forget --url http://example.org/me.jpg
    """
    from data.lake.lake import Lake
    from data.upkeep.forget import find_pairs
    from data.upkeep.forget import forget as run_forget

    kinds: dict[Any, str | None] = {"url": url, "pair": id, "domain": domain, "sha256": sha256}
    criteria = [(kind, value) for kind, value in kinds.items() if value is not None]
    if len(criteria) != 1:
        raise typer.BadParameter("give exactly one of --url, --id, --domain and --sha256")
    (kind, value), opened = criteria[0], Lake.open(lake)
    assert value is not None
    count = len(find_pairs(opened, kind, value))
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"{pluralize(count, 'pair')} would be erased for good; confirm with --yes")
        typer.confirm(f"Erase {pluralize(count, 'pair')} for good?", abort=True)
    forgotten = run_forget(opened, kind, value, reason)
    if as_json:
        write_json(asdict(forgotten))
    else:
        from flows.terminal.data_tables import show_forgotten

        show_forgotten(forgotten)


def vacuum(
    older_than: Annotated[
        float, typer.Option(min=0, help="Minimum age in hours; a running build may still commit a younger file.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files without removing them.")] = False,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Remove files that no table version references.

    These are left by workers that were killed, or that lost a race to commit.

    Example: imagen vacuum --dry-run
    """
    from data.lake.lake import Lake
    from data.upkeep.vacuum import vacuum as run_vacuum

    vacuumed = run_vacuum(Lake.open(lake), older_than * 3600, dry_run)
    if as_json:
        write_json(asdict(vacuumed))
    else:
        from flows.terminal.data_tables import show_vacuumed

        show_vacuumed(vacuumed, dry_run)


def export(
    version: Annotated[str, typer.Argument(help="NAME@VERSION; the newest version if only NAME.")],
    out: Annotated[str, typer.Argument(help="A new or empty folder or URL.")],
    format: Annotated[str, typer.Option(help="webdataset, parquet, or hf (Hugging Face Hub).")],
    lake: LakeOption = "lake",
    shard_size: Annotated[int, typer.Option(min=1, help="Samples per file.")] = 10_000,
    shuffle: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, show_default=False, help="Shuffle by this seed; in the order of ids if not given."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a version as tars, Parquet or a Hub folder.

    An export that was killed continues when you run it again.

    Example: imagen export shapes@4 s3://bucket/shapes --format webdataset
    """
    from data.engine.progress import watcher
    from data.export.export import Format
    from data.export.export import export as run_export
    from data.lake.lake import Lake
    from flows.terminal.progress import watching

    if format not in list(Format):
        raise typer.BadParameter(f"{format!r} is not one of {', '.join(Format)}", param_hint="--format")
    dataset, number = parse_version(version)
    with watching(silent=as_json):
        exported = run_export(
            Lake.open(lake),
            dataset,
            number,
            out,
            Format(format),
            shard_size,
            shuffle,
            on_plan=lambda samples: watcher.get().planned("export", samples),
            on_samples=lambda samples: watcher.get().done("export", samples),
        )
    if as_json:
        write_json(asdict(exported))
    else:
        from flows.terminal.data_tables import show_exported

        show_exported(exported)
