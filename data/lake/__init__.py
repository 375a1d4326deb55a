"""The lake: one folder or bucket prefix of Delta tables, and reading and appending rows there.

Belongs here: storage, tables, schemas, names of files, SQL over tables. Not: what a stage does with rows.
Start with `lake.py`, then `table.py`. `from data.lake import Lake` is the public face.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.lake.lake import Lake

__all__ = ["Lake"]


def __getattr__(name: str) -> Any:
    """`from data.lake import Lake`, without loading Delta for whoever needs only a name of a file."""
    if name == "Lake":
        from data.lake.lake import Lake

        return Lake
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
