"""The `imagen` command answers at once, as what is slow to import is imported by the verb that needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import runs

RUNS = Path(runs.__file__).parent
SLOW = {
    *("torch", "torchvision", "transformers", "diffusers", "accelerate", "open_clip", "cv2", "numpy", "PIL"),
    *("prefect", "fastapi", "sqlalchemy", "aiohttp", "pyarrow", "duckdb", "deltalake", "fsspec", "jinja2", "yaml"),
}
HELP = """
import sys
from flows.command import app
try:
    app({words!r})
except SystemExit as end:
    sys.stderr.write(" ".join(sys.modules))
    raise
"""


def imported_by(*words: str) -> set[str]:
    """The modules that a help page has loaded when it is printed."""
    command = [sys.executable, "-c", HELP.format(words=list(words))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    return set(done.stderr.split())


def test_help_imports_nothing_that_is_slow() -> None:
    imported = imported_by("--help")
    assert {"flows.command", "typer"} <= imported
    assert imported & (SLOW | {"pydantic"}) == set()


@pytest.mark.parametrize("verb", ["build", "train", "up"])
def test_a_verbs_help_imports_nothing_that_is_slow(verb: str) -> None:
    assert imported_by(verb, "--help") & SLOW == set()  # typer has pydantic for the types of options


@pytest.mark.slow
def test_deploying_a_flow_loads_no_model_library() -> None:
    flows = [f"flows.runs.{path.stem}" for path in RUNS.glob("[a-z]*.py")]
    code = f"import sys, {', '.join(flows)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"flows.runs.train", "flows.runs.retrain"} <= set(done.stdout.split())
    assert {"torch", "diffusers", "transformers", "accelerate", "open_clip"} & set(done.stdout.split()) == set()
