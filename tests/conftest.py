"""Small worlds and real servers, started once a session on free loopback ports and ended by their own process ids."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from data.lake import storage
from data.lake.lake import Lake
from data.world.make import HOST, make_world
from data.world.server import OriginProcess, start_process
from tests.servers import ceph
from tests.shared import copied, copy_of, made_once

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # little models wait for their threads longer than they compute
os.environ.pop("PREFECT_API_URL", None)  # never a server of the user's

UNSEEN_SEED = 4711  # no model was trained on it
SMALL = 160

Bucket = Callable[..., str]

RECIPE = """
name: shapes
sources:
  - path: {source}
download:
  image_size: 256
  timeout: 8
  per_host: 64
  per_host_rate: 5000
  max_bytes: 10000000
scores:
  clip:
    model: built-in
select:
  - words: {{min: 3}}
  - side: {{min: 64}}
  - aspect: {{max: 3}}
  - clip_score: {{min: {threshold}}}
embed:
  t5: {{encoder: t5, model: built-in}}
shard_rows: {shard_rows}
"""

QUICK_RECIPE = """
name: shapes
sources:
  - path: {source}
download:
  image_size: 256
  timeout: 4
  per_host: 64
  per_host_rate: 5000
  max_bytes: 10000000
scores:
  picture:
select:
  - words: {{min: 3}}
  - side: {{min: 64}}
  - aspect: {{max: 3}}
  - picture_brightness: {{min: {threshold}}}
shard_rows: {shard_rows}
"""  # for builds that are about something else than scores and embeddings: no process of theirs loads torch

# Fixtures whose tests are not in `make check`.
SLOW = {"prefect_server", "s3_server", "cluster", "origin", "built", "one_model_lake"}


LONGEST = (  # files, which `--dist loadfile` gives to one process each
    "tests/flows/platform/test_schedule.py",
    "tests/flows/platform/test_interrupted.py",
    "tests/flows/verbs/test_demo.py",
    "tests/data/lake/test_s3.py",
    "tests/imagen/train/test_train.py",
    "tests/flows/",
    "tests/imagen/train/",
    "tests/data/engine/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by how long they take, so that no process is left alone with a long one at the end."""

    def place(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    items.sort(key=place)
    for item in items:
        if not SLOW.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world with every fault in it."""
    return made_once(tmp_path_factory, "world", lambda folder: make_world(folder, SMALL, UNSEEN_SEED))


@pytest.fixture(scope="session")
def origin(world: Path) -> Iterator[OriginProcess]:
    with start_process(world) as server:
        yield server


@pytest.fixture
def lake(tmp_path: Path, origin: OriginProcess) -> Lake:
    """An empty lake that may fetch from the world's origin."""
    return Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})


@pytest.fixture(scope="session")
def one_model_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with drawn@1 and the model little/1 that was trained on it. Not to be changed: ask for `one_model`."""
    from tests.lakes.trained import make_trained_lake  # which loads torch

    return Lake.open(str(copied(tmp_path_factory, "one-model", make_trained_lake) / "lake"))


@pytest.fixture(scope="session")
def pictured_lake(one_model_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The same with the pictures that drawn@1 was published from. Not to be changed."""
    from tests.lakes.drawn import add_images

    return add_images(copy_of(one_model_lake, tmp_path_factory.mktemp("pictured") / "lake"))


@pytest.fixture(scope="session")
def three_models_lake(pictured_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The same with little/2 and little/3, of other weights. Not to be changed: ask for `three_models`."""

    def add_two(folder: Path) -> None:
        from tests.lakes.trained import add_perturbed_model

        lake = copy_of(pictured_lake, folder / "lake")
        for number in (2, 3):
            add_perturbed_model(lake, number)

    return Lake.open(str(copied(tmp_path_factory, "three-models", add_two) / "lake"))


@pytest.fixture
def one_model(one_model_lake: Lake, tmp_path: Path) -> Lake:
    """A copy for one test."""
    return copy_of(one_model_lake, tmp_path / "lake")


@pytest.fixture
def three_models(three_models_lake: Lake, tmp_path: Path) -> Lake:
    """A copy for one test."""
    return copy_of(three_models_lake, tmp_path / "lake")


def write_recipe(
    folder: Path, source: Path | str, threshold: float = 0.32, shard_rows: int = 40, text: str = RECIPE
) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text.format(source=source, threshold=threshold, shard_rows=shard_rows))
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server on SQLite; the address of its API."""
    with serving(tmp_path_factory.mktemp("prefect"), "ERROR") as url:
        yield url


@contextmanager
def serving(home: Path, level: str) -> Iterator[str]:
    """A Prefect server with SQLite and `log` in a folder, ended by its own process id; the address of its API."""
    port = free_port()
    environment = {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": level}
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--port", str(port)]
    with server_process(command, f"http://127.0.0.1:{port}/api/health", home / "log", environment):
        yield f"http://127.0.0.1:{port}/api"


@contextmanager
def server_process(
    command: list[str], url: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """A server as a process of its own, once a URL of it answers; ended by its own process id."""
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | (environment or {}), stdout=output, stderr=output)
    try:
        wait_for(url, 120)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server as a process of its own; its endpoint."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.s3", str(port)]
    with server_process(command, f"http://127.0.0.1:{port}/moto-api/data.json", tmp_path_factory.mktemp("s3") / "log"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Point everything at an endpoint; gives the URL of a new bucket there."""
    for name, value in {"ACCESS_KEY_ID": ceph.KEY, "SECRET_ACCESS_KEY": ceph.KEY, "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)  # moto takes any
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def point(endpoint: str, behind: str | None = None) -> str:
        name = f"lake-{uuid.uuid4().hex[:12]}"
        boto3.client("s3", endpoint_url=behind or endpoint).create_bucket(Bucket=name)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        storage.filesystem.cache_clear()
        storage.filesystem("s3").clear_instance_cache()
        storage.filesystem.cache_clear()
        return f"s3://{name}/lake"

    yield point
    storage.filesystem.cache_clear()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def content_of(lake: Lake, dataset: str, version: int | None = None) -> list[tuple[object, ...]]:
    """The published rows, sorted: what two builds of the same thing must agree on."""
    table = lake.table(f"datasets/{dataset}", version).dataset().to_table()
    columns = [name for name in table.column_names if name != "image"]
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    pictures = (hashlib.sha256(image["bytes"]).hexdigest() for image in table["image"].to_pylist())
    return sorted((*row, picture) for row, picture in zip(rows, pictures, strict=True))
