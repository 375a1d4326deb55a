"""The model's room: the cascade, its training, sampling and evaluation. Knows the data room and no Prefect."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagen.models.captions import describe
    from imagen.models.model import Imagen

__all__ = ["Imagen", "describe"]
__version__ = version("imagen")


def __getattr__(name: str) -> Any:
    """`from imagen import Imagen, describe`, without loading torch for who does not."""
    if name == "Imagen":
        from imagen.models.model import Imagen

        return Imagen
    if name == "describe":
        from imagen.models.captions import describe

        return describe
    raise AttributeError(f"module 'imagen' has no attribute {name!r}")
