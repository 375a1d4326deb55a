"""Generated pictures with their scores, joined from the tables of a lake."""

import json
from collections.abc import Iterable
from typing import Any

from PIL import Image

from data.lake.lake import Lake
from data.lake.sql import query
from data.pictures.prepare import decode


def join_scores(lake: Lake, tables: dict[str, tuple[str, str]]) -> dict[str, list[Any]]:
    """Return the columns of all pictures that have every score, in the order of their prompts.

    Args:
        tables: for each column to add, the table that has it and the column's name in that table.

    Returns:
        The pairs' `id`, `caption` and fields of `extra` (`number` of the prompt, `again`, `category`, ...), and the
        added columns.
    """
    joins, columns, datasets = "", "", {"pairs": lake.table("pairs").dataset()}
    for index, (name, (table, column)) in enumerate(tables.items()):
        joins += f" JOIN t{index} ON t{index}.id = pairs.id"
        columns += f", t{index}.{column} AS {name}"
        datasets[f"t{index}"] = lake.table(table).dataset()
    pictures = query(f"SELECT pairs.id, caption, extra{columns} FROM pairs{joins}", **datasets).to_pylist()
    rows = [{**picture, **json.loads(picture["extra"])} for picture in pictures]
    rows.sort(key=lambda row: (row["number"], row["again"]))
    return {name: [row[name] for row in rows] for name in rows[0]}


def read_first_pictures(lake: Lake, rows: dict[str, list[Any]], numbers: Iterable[int]) -> list[Image.Image]:
    """Return the first picture of each of these prompts.

    Args:
        rows: the columns that `join_scores` returns.
        numbers: the numbers of the prompts.
    """
    first_ids: dict[int, str] = {}
    for number, id in zip(rows["number"], rows["id"], strict=True):
        first_ids.setdefault(number, id)
    ids = [first_ids[number] for number in numbers]
    images = {
        row["id"]: decode(row["image"]) for row in lake.table("images").find_rows(ids, ["id", "image"]).to_pylist()
    }
    return [images[id] for id in ids]
