"""The lineage record of a dataset version: its recipe, the table versions that were read, and the code version."""

import subprocess
from functools import lru_cache
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any


def lineage(recipe: dict[str, Any], recipe_hash: str, inputs: dict[str, int]) -> dict[str, Any]:
    """Make the lineage record of a dataset version. `inputs` maps each table that was read to its version."""
    return {"recipe": recipe, "recipe_hash": recipe_hash, "inputs": inputs, "code": code_version()}


@lru_cache(maxsize=1)
def code_version() -> dict[str, str | None]:
    """Return the package's version and the git commit. The commit is None if the code does not run from a checkout."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None  # installed from a wheel, or git is not installed
    return {"version": package_version("imagen"), "commit": commit}
