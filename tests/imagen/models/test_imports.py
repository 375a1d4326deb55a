"""How much of the project is imported to load a model by its name and to make one image."""

import subprocess
import sys

from data.lake.lake import Lake

MOST_FILES = 30
SCRIPT = """
import sys

from imagen import Imagen

Imagen.from_pretrained("little/1", sys.argv[1]).generate_image("a red circle", steps=1)
modules = [name for name in sys.modules if name.partition(".")[0] in ("data", "flows", "imagen")]
print("\\n".join(sorted(name for name in modules if not name.startswith("imagen.cascade"))))
"""


def test_an_image_of_a_model_by_its_name_needs_few_files_outside_the_cascade(one_model_lake: Lake) -> None:
    command = [sys.executable, "-c", SCRIPT, one_model_lake.url]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "imagen.models.model" in files
    assert not [name for name in files if name.startswith("flows")]
    assert len(files) <= MOST_FILES, files
