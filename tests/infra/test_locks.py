"""The two locked sets: what they hold, and that the product needs no more than the smaller one."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNUSED = [line for line in (ROOT / "requirements-unused.txt").read_text().split("\n") if line and line[0] != "#"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PREPARE = """
import io, sys
sys.modules |= dict.fromkeys({unused!r})  # an import of any of these raises ImportError
from PIL import Image
from data.pictures.prepare import PictureSettings, prepare
body = io.BytesIO()
Image.new("RGB", (640, 480), "red").save(body, "PNG")
picture = prepare(body.getvalue(), PictureSettings(image_size=64))
print(picture.width, picture.height)
"""


def name_of(requirement: str) -> str:
    """The normalized name of what a requirement asks for, without extras, versions and markers."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def pins(lock: str) -> set[str]:
    return set(re.findall(r"^(\S+==\S+)", (ROOT / lock).read_text(), flags=re.M))


def names(lock: str) -> set[str]:
    return {name_of(pin) for pin in pins(lock)}


def test_what_develops_the_product_holds_what_runs_it_with_the_same_pins() -> None:
    assert pins("requirements.lock") < pins("requirements-dev.lock")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_has_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    requirements = text.replace("\\\n", "").strip().split("\n")
    assert all(re.match(r"\w\S*==\S+.* --hash=sha256:[0-9a-f]{64}", line) for line in requirements)


def test_what_runs_the_product_has_its_dependencies_and_no_tools() -> None:
    run = names("requirements.lock")
    optional = {
        name_of(requirement) for extra in PROJECT["optional-dependencies"].values() for requirement in extra
    } - {"imagen"}
    assert {name_of(requirement) for requirement in PROJECT["dependencies"]} <= run
    assert run & (optional | set(UNUSED)) == set()
    assert optional | set(UNUSED) <= names("requirements-dev.lock")


def test_all_that_the_product_imports_is_locked_for_it() -> None:
    locked = names("requirements.lock") | {"imagen"}
    optional = {name_of(PROJECT["optional-dependencies"]["ray"][0])}  # data/engine/ray.py imports it
    distributions = packages_distributions()
    for file in (file for package in ("data", "imagen", "flows") for file in (ROOT / package).rglob("*.py")):
        for module in sorted(imported(file) - sys.stdlib_module_names - {"data", "imagen", "flows"}):
            owners = {name_of(name) for name in distributions[module]}
            assert owners & (locked | optional), f"{file} imports {module}"


def imported(file: Path) -> set[str]:
    """The first part of each module that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = (name.name for node in nodes if isinstance(node, ast.Import) for name in node.names)
    parts = (node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module)
    return {module.partition(".")[0] for module in (*plain, *parts)}


def test_a_picture_is_prepared_without_the_unused_dependencies_of_img2dataset() -> None:
    distributions = packages_distributions()
    unused = sorted(module for module, owners in distributions.items() if {*map(name_of, owners)} & set(UNUSED))
    assert {"wandb", "pandas", "fire", "webdataset", "exifread"} <= set(unused)
    words = [sys.executable, "-c", PREPARE.format(unused=unused)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["64", "48"], done.stderr


class Checkout:
    """The Makefile beside files of the same names as it looks at, all of one age."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        (folder / ".venv/bin").mkdir(parents=True)
        for file in ("requirements.lock", "requirements-dev.lock", "pyproject.toml", ".venv/bin/uv"):
            (folder / file).touch()

    def locks_installed_by(self, target: str) -> list[str]:
        words = ["make", "--dry-run", target]
        planned = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, check=True).stdout
        return re.findall(r"pip sync .* (\S+\.lock)$", planned, flags=re.M)


def test_make_demo_installs_what_runs_the_product_once(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    assert checkout.locks_installed_by("demo") == ["requirements.lock"]
    (tmp_path / ".venv/.run").touch()
    assert checkout.locks_installed_by("demo") == []


def test_make_test_adds_the_tools_to_what_a_demo_left(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / ".venv/.run").touch()
    assert checkout.locks_installed_by("test") == ["requirements-dev.lock"]
    (tmp_path / ".venv/.develop").touch()
    for target in ("test", "check", "lint", "nightly", "demo"):
        assert checkout.locks_installed_by(target) == [], target


def test_a_demo_leaves_a_developers_environment_one(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / ".venv/.develop").touch()
    assert checkout.locks_installed_by("demo") == []
    older = (tmp_path / "requirements-dev.lock").stat().st_mtime - 10
    os.utime(tmp_path / ".venv/.develop", (older, older))
    assert checkout.locks_installed_by("demo") == ["requirements-dev.lock"]
