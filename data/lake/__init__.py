"""The lake: a folder or bucket prefix that holds Delta tables, and how their rows are read and appended.

Belongs here: storage, tables, schemas, file names, SQL over tables. Does not belong here: what a stage does with rows.
Start with `lake.py`, then `table.py`. `from data.lake import Lake` is the public face.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.lake.lake import Lake

__all__ = ["Lake"]


def __getattr__(name: str) -> Any:
    """Import `Lake` on first use, so that code which needs only a file name does not load Delta."""
    if name == "Lake":
        from data.lake.lake import Lake

        return Lake
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
