"""Public names of a package, imported when they are first used."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def exports(package: str, **modules: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose public names lie in other modules (PEP 562).

    So a package has a public face, and importing one of its small modules loads nothing else.

    Args:
        package: the package's `__name__`
        modules: for each public name the module that defines it

    Example:
        __getattr__ = exports(__name__, Lake="data.lake.lake")
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return find
