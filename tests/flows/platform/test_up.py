"""What `imagen up` refuses before it starts anything."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server.client import AUTH
from tests.command import run_imagen


@pytest.fixture
def taken_port() -> Iterator[str]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield str(server.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.yaml"], "recipe nowhere.yaml does not exist"),
        (["--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--auth"], f"{AUTH}: set it to USER:PASSWORD"),
        (["--port", "PORT"], "Stop it, or choose another --port"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained_before_anything_starts(
    words: list[str], sentence: str, taken_port: str, tmp_path: Path
) -> None:
    finished = run_imagen("up", *(word.replace("PORT", taken_port) for word in words), folder=tmp_path)
    assert finished.returncode == 2
    assert sentence in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert not (tmp_path / "lake/platform").exists()
