"""The model's room: the cascade, its training, sampling and evaluation. Knows the data room and no Prefect."""

from importlib.metadata import version

__version__ = version("imagen")
