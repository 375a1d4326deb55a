"""The lake: a folder or object-store prefix with Delta tables, and the code that reads and appends their rows.

Belongs here: storage, tables, schemas, file names, SQL over tables. Does not belong here: the work of any stage.
Start with `lake.py`, then `table.py`. Other packages import it by `from data.lake import Lake`.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.lake.lake import Lake

__all__ = ["Lake"]

__getattr__, __dir__ = exports(__name__, Lake="data.lake.lake")
