"""The server in parts as infra/compose.yaml runs it: pages and services apart, on PostgreSQL, with Redis between."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.conftest import free_port, wait_for
from tests.infra.test_files import COMPOSE
from tests.servers.postgres import Postgres, needs_postgres
from tests.servers.prefect_api import ask
from tests.servers.redis import needs_redis, redis_server

pytestmark = pytest.mark.xdist_group("server")
BIN = Path(sys.executable).parent
LOGIN = "ann:secret"
TASKS = 300
MANY = f"""
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

@task
def nothing(number): pass

@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def many():
    for done in nothing.map(range({TASKS})):
        done.result()

many()

from flows.server.events import dataset_published
@flow
def tell():
    dataset_published("lake", "shapes", 1, samples=10, added=10)
tell()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its API."""
    folder = tmp_path_factory.mktemp("server")
    said = yaml.safe_load(COMPOSE.read_text())["services"]["server"]
    assert said["command"][:2] == ["server", "start"]
    with ExitStack() as stack:
        postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagen-"))))
        stack.callback(postgres.stop)
        redis, port = stack.enter_context(redis_server(folder)), free_port()
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= said["environment"] | {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url,
            "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(redis),
            "PREFECT_SERVER_DOCKET_URL": said["environment"]["PREFECT_SERVER_DOCKET_URL"].replace(
                "redis:6379", f"127.0.0.1:{redis}"
            ),
        }
        pages = ["server", "start", "--no-services", "--port", str(port)]
        for name, words in (("pages", pages), ("services", ["server", "services", "start"])):
            log = stack.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen([str(BIN / "prefect"), *words], env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            if name == "pages":
                wait_for(f"http://127.0.0.1:{port}/api/health", 120)
        yield f"http://127.0.0.1:{port}/api"


@needs_postgres
@needs_redis
def test_every_task_run_is_recorded_and_an_event_starts_what_it_triggers(server: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": LOGIN}
    words = [str(BIN / "imagen"), "deploy", "--lake", str(tmp_path / "lake")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-c", MANY], env=environment, check=True, capture_output=True)

    there = {one["name"]: one["id"] for one in ask(f"{server}/deployments/filter", login=LOGIN)}
    completed = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    of_retrain = {"deployments": {"id": {"any_": [there["on-dataset-published-shapes"]]}}}
    for _ in range(60):
        recorded, started = (
            ask(f"{server}/task_runs/count", completed, LOGIN),
            ask(f"{server}/flow_runs/filter", of_retrain, LOGIN),
        )
        if recorded == TASKS and started:
            break
        time.sleep(1)
    assert recorded == TASKS
    (run,) = started
    assert run["work_pool_name"] == "gpu"


@needs_postgres
@needs_redis
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_workers_of_each_kind_take_what_is_said_of_them(server: str, tmp_path: Path, kind: str) -> None:
    """Pool and deployments are made; what a run would get is what Prefect's own templates have a place for."""
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": LOGIN}
    for pool in ("data", "gpu"):  # of another kind, if a test before this one made them
        delete = [str(BIN / "prefect"), "--no-prompt", "work-pool", "delete", pool]
        subprocess.run(delete, env=environment, check=False, capture_output=True)

    def deploy(workers: str) -> "subprocess.CompletedProcess[str]":
        words = [str(BIN / "imagen"), "deploy", "--lake", str(tmp_path / "lake"), "--workers", workers]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    done = deploy(kind)
    assert done.returncode == 0, done.stderr
    other = deploy("process")
    assert other.returncode == 2
    assert f"the work pool data exists with type {kind}, which cannot be changed" in other.stderr
    assert "deploy again: prefect work-pool delete data" in other.stderr
    pool = ask(f"{server}/work_pools/data", login=LOGIN, method="GET")
    assert pool["type"] == kind
    kinds = yaml.safe_load((COMPOSE.parents[1] / "prefect.yaml").read_text())["definitions"]["workers"]
    assert kinds[kind].keys() <= pool["base_job_template"]["variables"]["properties"].keys()
