"""The model's room: the cascade, its training, sampling and evaluation. Knows the data room and no Prefect."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from imagen.models.captions import describe
    from imagen.models.model import Imagen

__all__ = ["Imagen", "describe"]
__version__ = version("imagen")

__getattr__ = exports(__name__, Imagen="imagen.models.model", describe="imagen.models.captions")
