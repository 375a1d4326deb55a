"""A wheel: what an installed one brings along, and that it works from an empty folder without the checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.servers.platform import running_platform

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("data", "imagen", "flows")
BUILT_FROM = (*PACKAGES, "infra", "prefect.yaml", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index")
PAGES = """
import data
from pathlib import Path
from jinja2 import Environment, PackageLoader
installed = Path(data.__file__).parents[1]
for package, page in [("data", "report.html"), ("data", "card.md"), ("imagen", "model.html")]:
    source, file, _ = PackageLoader(package, "pages").get_source(Environment(), page)
    print(Path(file).is_relative_to(installed), "{{" in source)
"""
MODELS = """
from safetensors import safe_open
from data.encoders import settings
from data.scorers import captioner, clip
for folder in (settings.BUILT_IN, captioner.BUILT_IN, clip.BUILT_IN):
    (weights,) = folder.glob("*.safetensors")
    with safe_open(weights, "numpy") as tensors:
        print(folder.name, len(tensors.keys()) > 10)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files, as setuptools keeps what it builds beside them."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        copy = shutil.copy if (ROOT / name).is_file() else copy_of_folder
        copy(ROOT / name, folder / name)
    words = [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", folder, folder]
    subprocess.run(words, check=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def copy_of_folder(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))


class Environment:
    """A virtual environment with a wheel in it, which finds this one's packages and not the checkout."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder, symlinks=True)
        self.bin = folder / "bin"
        subprocess.run([*PIP, "--python", self.bin / "python", "install", *OFFLINE, wheel], check=True)
        self.packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        # The .pth files in that folder, by which an editable installation is found, are not read.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        prefect = Path(sys.executable).with_name("prefect").read_text()
        (self.bin / "prefect").write_text(re.sub("^#!.*", f"#!{self.bin}/python", prefect))
        (self.bin / "prefect").chmod(0o755)

    def output(self, command: str, *words: str) -> str:
        """What a command of this environment prints, in the current folder."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([self.bin / command, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    files = [file.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()]
    expected = {str(file) for file in files if "__pycache__" not in file.parts}
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected


def test_a_wheel_holds_the_deployments_and_automations_of_the_checkout(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        assert archive.read("flows/platform/prefect.yaml") == (ROOT / "prefect.yaml").read_bytes()
        assert archive.read("flows/platform/automations.yaml") == (ROOT / "infra/automations.yaml").read_bytes()


def test_what_is_imported_is_installed(installed: Environment) -> None:
    printed = installed.output("python", "-c", "import data, imagen, flows; print(data, imagen, flows)")
    assert printed.count(f"{installed.packages}/") == 3


def test_the_command_answers(installed: Environment) -> None:
    assert "imagen [OPTIONS] COMMAND" in installed.output("imagen", "--help")


def test_a_shipped_recipe_is_printed(installed: Environment) -> None:
    assert installed.output("imagen", "recipe", "shapes") == (ROOT / "data/recipes/shapes.yaml").read_text()


def test_a_lake_is_made(installed: Environment) -> None:
    installed.output("imagen", "lake", "make", "lake")
    assert Path("lake/lake.json").exists()


def test_pages_are_found(installed: Environment) -> None:
    assert installed.output("python", "-c", PAGES).split() == ["True"] * 6


def test_the_built_in_worlds_models_are_opened(installed: Environment) -> None:
    assert installed.output("python", "-c", MODELS).split() == ["t5", "True", "captioner", "True", "clip", "True"]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_platform_runs_a_deployment(installed: Environment) -> None:
    """Beside a module that would hide the standard library's: pip users have the backport that img2dataset asks for."""
    (installed.packages / "dataclasses.py").write_text("raise ImportError('a backport like this one')\n")
    with running_platform(["--lake", "lake"], {"PYTHONPATH": ""}, str(installed.bin / "imagen")) as platform:
        assert platform.names("deployments")["verify"]["entrypoint"] == "flows.runs.verify.verify"
        run = platform.wait_for_run(platform.start_run("verify"))
    assert run["state_type"] == "COMPLETED", run
