"""Imports a package's public names only when they are first used."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def exports(package: str, **modules: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` for a package whose public names are defined in other modules (PEP 562).

    With them, all public names can be imported from the package, but importing one small module loads no other modules.

    Args:
        package: the package's `__name__`
        modules: the module that defines each public name, keyed by the name

    Example:
        __getattr__, __dir__ = exports(__name__, Lake="data.lake.lake")
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return find, names
