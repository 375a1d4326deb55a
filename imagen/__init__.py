"""The model's room: the cascade, its training, sampling and evaluation. Knows the data room and no Prefect."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagen.model import Imagen

__all__ = ["Imagen"]
__version__ = version("imagen")


def __getattr__(name: str) -> Any:
    """`from imagen import Imagen`, without loading torch for who does not."""
    if name == "Imagen":
        from imagen.model import Imagen

        return Imagen
    raise AttributeError(f"module 'imagen' has no attribute {name!r}")
