"""Text-to-image models: the cascade, its training, sampling, evaluation and promotion. A plain library.

Nothing here knows Prefect or a terminal. The public interface is `from imagen import Imagen, describe`. Start with
`models/model.py` (`Imagen`), then `cascade/pipeline.py`.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from data.lazy import exports

if TYPE_CHECKING:
    from imagen.models.captions import describe
    from imagen.models.model import Imagen

__all__ = ["Imagen", "describe"]
__version__ = version("imagen")

__getattr__, __dir__ = exports(__name__, Imagen="imagen.models.model", describe="imagen.models.captions")
