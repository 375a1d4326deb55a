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

from flows.platform.deploy import DEPLOYMENTS
from flows.server.client import AUTH
from tests.command import Finished, finish, run_imagen, start_imagen
from tests.conftest import free_port, wait_for
from tests.infra.test_files import COMPOSE
from tests.servers.postgres import Postgres, needs_postgres
from tests.servers.prefect_api import request
from tests.servers.redis import needs_redis, redis_server

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
LOGIN = "ann:secret"
TASKS = 300
MANY_TASKS = f"""
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
    service = yaml.safe_load(COMPOSE.read_text())["services"]["server"]
    assert service["command"][:2] == ["server", "start"]
    with ExitStack() as stack:
        postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagen-"))))
        stack.callback(postgres.stop)
        redis, port = stack.enter_context(redis_server(folder)), free_port()
        environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
        environment |= service["environment"] | {
            "PREFECT_HOME": str(folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": postgres.url,
            "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
            "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
            "PREFECT_REDIS_MESSAGING_PORT": str(redis),
            "PREFECT_SERVER_DOCKET_URL": service["environment"]["PREFECT_SERVER_DOCKET_URL"].replace(
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


def delete_pools(server: str) -> None:
    """Of whatever kind a test before made them."""
    for pool in request(f"{server}/work_pools/filter", login=LOGIN):
        request(f"{server}/work_pools/{pool['name']}", login=LOGIN, method="DELETE")


@needs_postgres
@needs_redis
def test_every_task_run_is_recorded_and_an_event_starts_what_it_triggers(server: str, tmp_path: Path) -> None:
    delete_pools(server)
    login = {"PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": LOGIN}
    finished = finish(start_imagen("deploy", "--lake", "lake", folder=tmp_path, **login))
    assert finished.returncode == 0, finished.stderr
    subprocess.run([sys.executable, "-c", MANY_TASKS], env={**os.environ, **login}, check=True, capture_output=True)
    deployments = {item["name"]: item["id"] for item in request(f"{server}/deployments/filter", login=LOGIN)}
    completed = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    of_retrain = {"deployments": {"id": {"any_": [deployments["on-dataset-published-shapes"]]}}}
    for _ in range(60):
        recorded = request(f"{server}/task_runs/count", completed, LOGIN)
        started = request(f"{server}/flow_runs/filter", of_retrain, LOGIN)
        if recorded == TASKS and started:
            break
        time.sleep(1)
    assert recorded == TASKS
    assert [run["work_pool_name"] for run in started] == ["gpu"]


@needs_postgres
@needs_redis
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_pools_of_each_kind_have_a_place_for_what_prefect_yaml_says_of_them(
    server: str, tmp_path: Path, kind: str
) -> None:
    """Pools and deployments are made; what a run would get is what Prefect's own templates have a place for."""
    delete_pools(server)

    def deploy(workers: str) -> Finished:
        login = {"PREFECT_API_URL": server, "PREFECT_API_AUTH_STRING": LOGIN, AUTH: LOGIN}
        return run_imagen("deploy", "--lake", str(tmp_path / "lake"), "--workers", workers, folder=tmp_path, **login)

    finished = deploy(kind)
    assert finished.returncode == 0, finished.stderr
    pool = request(f"{server}/work_pools/data", login=LOGIN, method="GET")
    assert pool["type"] == kind
    kinds = yaml.safe_load(DEPLOYMENTS.read_text())["definitions"]["workers"]
    assert kinds[kind].keys() <= pool["base_job_template"]["variables"]["properties"].keys()
    refused = deploy("process")
    assert refused.returncode == 2
    assert f"the work pool data exists with type {kind}" in refused.stderr
    assert "prefect work-pool delete data" in refused.stderr
