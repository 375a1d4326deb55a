"""Reads a dataset version as a torch dataset, in deterministic order, with several ranks and workers and exact resume.

Not here: the batches and tensors of training (imagen/train). Start with `reader.py`. Other packages import
`from data.reader import Reader, merge_states`.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.reader.reader import Reader
    from data.reader.states import merge_states

__all__ = ["Reader", "merge_states"]

__getattr__, __dir__ = exports(__name__, Reader="data.reader.reader", merge_states="data.reader.states")
