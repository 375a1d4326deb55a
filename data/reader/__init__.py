"""A dataset version as a torch dataset: deterministic order, ranks and workers, exact resume.

Not here: batches and tensors of a training (imagen/train). Start with `reader.py`.
`from data.reader import Reader, merge_states` is the public face.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.reader.reader import Reader
    from data.reader.states import merge_states

__all__ = ["Reader", "merge_states"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that importing `data.reader.order` does not load torch."""
    if name == "Reader":
        from data.reader.reader import Reader

        return Reader
    if name == "merge_states":
        from data.reader.states import merge_states

        return merge_states
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
