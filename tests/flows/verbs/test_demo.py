"""`imagen demo`: from nothing to pictures by one command, and again without anything to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.lake.lake import Lake
from data.publish.versions import newest_version
from imagen.models.table import models

IMAGEN = str(Path(sys.executable).with_name("imagen"))


@pytest.mark.timeout(900)
def test_the_demo_goes_from_a_list_to_pictures_and_has_nothing_to_do_again(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}

    def demo() -> str:
        command = [IMAGEN, "demo", "--pairs", "120", "--train-minutes", "0.1"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        return " ".join((done.stdout + done.stderr).split())

    said = demo()
    assert "shapes/1 is trained on shapes@1" in said
    assert "of 100 prompts that no caption has" in said
    lake = Lake.open(str(tmp_path / "lake"))
    version, (model,) = newest_version(lake, "shapes"), models(lake)
    assert version is not None
    assert (model.dataset, model.version) == ("shapes", version.version)
    sheet = Image.open(tmp_path / "world" / "model.png")
    assert sheet.width > 4 * 128
    again = demo()
    assert "Nothing was pending: shapes@1" in again
    assert "Nothing to do: shapes/1 has this configuration and dataset version." in again
    assert len(models(lake)) == 1
