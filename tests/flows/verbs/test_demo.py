"""`imagen demo`: from nothing to pictures by one command, and again without anything to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.lake.lake import Lake
from data.publish.versions import newest_version
from imagen.models.table import models
from tests.command import IMAGEN, SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FEWER_PROMPTS = """
from flows import command
from flows.verbs import demo_run

demo_run.CHECKED_PROMPTS = 4
command.main()
"""


def run_demo(command: list[str], folder: Path, *words: str) -> str:
    """The output of a demo in a folder, on one line."""
    done = subprocess.run([*command, "demo", *words], cwd=folder, capture_output=True, text=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(([sys.executable, "-c", FEWER_PROMPTS], "120", "0.03", 4), id="few prompts"),
        pytest.param(([IMAGEN], "120", "0.1", 100), id="all prompts", marks=pytest.mark.nightly),
    ],
)
def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], int]:
    """The folder of a demo, what it printed at first and when it was run again, and how many prompts it checked."""
    command, pairs, minutes, prompts = request.param
    folder = tmp_path_factory.mktemp("demo")
    words = ("--pairs", pairs, "--train-minutes", minutes)
    return folder, [run_demo(command, folder, *words) for _ in range(2)], prompts


def test_a_demo_trains_a_model_on_what_it_built(shown: tuple[Path, list[str], int]) -> None:
    folder, (first, _), prompts = shown
    assert "shapes/1 is trained on shapes@1" in first
    assert f"of {prompts} prompts that no caption has" in first
    lake = Lake.open(str(folder / "lake"))
    version, (model,) = newest_version(lake, "shapes"), models(lake)
    assert version is not None
    assert (model.dataset, model.version) == ("shapes", version.version)


def test_a_demo_shows_pictures_of_its_prompts(shown: tuple[Path, list[str], int]) -> None:
    sheet = Image.open(shown[0] / "world" / "model.png")
    assert sheet.width > 4 * 128


def test_a_second_demo_has_nothing_to_do(shown: tuple[Path, list[str], int]) -> None:
    folder, (_, again), _ = shown
    assert "Nothing was pending: shapes@1" in again
    assert "Nothing to do: shapes/1 has this configuration and dataset version." in again
    assert len(models(Lake.open(str(folder / "lake")))) == 1
