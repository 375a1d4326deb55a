"""What is made once for a whole run, though every process of pytest-xdist has a session of its own."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from data.lake.lake import Lake


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled for whichever process asked first. The others wait for it.

    It is shared: copy what a test may change (`copied`).
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the process which started the workers
    folder, partial = base / f"shared-{name}", base / f"partial-{name}"
    with FileLock(base / f"shared-{name}.lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while it filled the folder
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def copied(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A copy of it for this process alone."""
    return Path(shutil.copytree(made_once(factory, name, make), factory.mktemp(name), dirs_exist_ok=True))


def copy_of(lake: Lake, url: Path) -> Lake:
    """A copy of a lake on a disk, at another place."""
    shutil.copytree(lake.url, url)
    return Lake.open(str(url))


def copy_beside(lake: Lake, folder: Path, files: dict[str, str]) -> Path:
    """The folder, filled with a copy of a lake and with files of these names and texts."""
    copy_of(lake, folder / "lake")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def published_ids(lake: Lake, version: int, dataset: str = "shapes") -> set[str]:
    """The ids of a version's rows."""
    return set(lake.table(f"datasets/{dataset}", version).dataset().to_table(columns=["id"])["id"].to_pylist())
