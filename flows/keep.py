"""The verbs by which a published version leaves its lake: export."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.options import JsonOption, LakeOption, named, write_json


def export(
    version: Annotated[str, typer.Argument(help="NAME@VERSION, or NAME for the newest")],
    out: Annotated[str, typer.Argument(help="An empty or new folder, on disk or as a URL.")],
    format: Annotated[str, typer.Option(help="webdataset, parquet, or hf: the layout of the Hugging Face Hub.")],
    lake: LakeOption = "lake",
    shard_size: Annotated[int, typer.Option(min=1, help="Samples a file.")] = 10_000,
    shuffle: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, show_default=False, help="A seed; the order of ids if not given."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version for others: webdataset tars, Parquet, or a Hub folder with its card. Killed, it can be run again.

    Example: imagen export shapes@4 s3://bucket/shapes --format webdataset
    """
    from data.export import Format
    from data.export import export as write
    from data.lake import Lake
    from flows.progress import watcher, watching

    if format not in list(Format):
        raise typer.BadParameter(f"{format!r} is none of {', '.join(Format)}", param_hint="--format")
    dataset, number = named(version)
    with watching(silent=as_json):
        written = write(
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
        write_json(asdict(written))
    else:
        from flows.show import show_exported

        show_exported(written)
