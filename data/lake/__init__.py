"""The lake: a folder or bucket prefix that holds Delta tables, and how their rows are read and appended.

Belongs here: storage, tables, schemas, file names, SQL over tables. Does not belong here: what a stage does with rows.
Start with `lake.py`, then `table.py`. `from data.lake import Lake` is the public face.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.lake.lake import Lake

__all__ = ["Lake"]

__getattr__ = exports(__name__, Lake="data.lake.lake")
