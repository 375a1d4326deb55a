"""A dataset version as a torch dataset: deterministic order, ranks and workers, exact resume.

Not here: batches and tensors of a training (imagen/train). Start with `reader.py`.
`from data.reader import Reader, merge_states` is the public face.
"""

from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from data.reader.reader import Reader
    from data.reader.states import merge_states

__all__ = ["Reader", "merge_states"]

__getattr__ = exports(__name__, Reader="data.reader.reader", merge_states="data.reader.states")
