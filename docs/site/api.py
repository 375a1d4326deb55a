"""The pages of the API reference: one for each folder of data, imagen and flows, with the modules that lie in it.

They are reStructuredText, which is what autodoc writes.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("data", "imagen", "flows")
FOLDER = "api"  # of the site
HEAD = """
API reference
=============

One page for each folder. Start with :doc:`imagen` to make pictures with a trained model, with :doc:`data.build` to
build a dataset, with :doc:`data.reader` to train on one. Names that begin with an underscore are private.

.. toctree::
   :maxdepth: 1

"""
MODULE = """
{name}
{line}

.. automodule:: {name}
   :members:
   :undoc-members:
"""


def pages() -> dict[str, str]:
    """The text of every page of the reference by its place in the site's sources."""
    folders = {folder: modules(folder) for package in PACKAGES for folder in packages(ROOT / package)}
    named = {".".join(folder.relative_to(ROOT).parts): (folder, found) for folder, found in folders.items()}
    texts = {f"{FOLDER}/{name}.rst": page(name, *found) for name, found in named.items()}
    return {f"{FOLDER}/index.rst": HEAD + "".join(f"   {name}\n" for name in named), **texts}


def packages(folder: Path) -> list[Path]:
    """A package's folder and those below it that are packages too."""
    below = (path.parent for path in sorted(folder.glob("*/**/__init__.py")))
    return [folder, *below]


def modules(folder: Path) -> list[str]:
    """The modules of a folder that are not private, by their dotted names."""
    files = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [".".join((*path.relative_to(ROOT).parts[:-1], path.stem)) for path in files]


def page(name: str, folder: Path, found: list[str]) -> str:
    """One folder: what belongs there, as its `__init__.py` says, what it offers, and its modules."""
    sections = [MODULE.format(name=module, line="-" * len(module)) for module in found]
    return "\n".join([name, "=" * len(name), "", f".. automodule:: {name}", "", *offered(name, folder), *sections])


def offered(name: str, folder: Path) -> list[str]:
    """What can be imported from a folder itself: the names in its `__all__`, with links to where they are described."""
    tree = ast.parse((folder / "__init__.py").read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    places = {alias.name: node.module for node in imports for alias in node.names}
    listed = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    names = [public for value in listed for public in ast.literal_eval(value) if public in places]
    return [f"- ``from {name} import {public}``: :py:obj:`{places[public]}.{public}`" for public in names]
