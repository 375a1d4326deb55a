"""`prefect.yaml` as a user deploys it: the nightly rebuild, one at a time, and what a published version starts."""

import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows.platform.deploy import DEPLOYMENTS, entrypoint, make_pools, prefect
from tests.servers.prefect_api import request

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> dict[str, dict[str, Any]]:
    """The deployments of the file by their names, after Prefect's own command."""
    make_pools(prefect_server, "process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect_server)
        words = [prefect(), "--no-prompt", "deploy", "--all"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {"deployments": {"name": {"any_": [deployment["name"] for deployment in deployments_of_the_file()]}}}
    return {item["name"]: item for item in request(f"{prefect_server}/deployments/filter", named)}


@pytest.fixture(scope="module")
def automations(deployed: dict[str, dict[str, Any]], prefect_server: str) -> dict[str, dict[str, Any]]:
    """The automations that start a deployment, by the name of that."""
    registered = request(f"{prefect_server}/automations/filter")
    started = {item["actions"][0].get("deployment_id"): item for item in registered}
    return {name: started[item["id"]] for name, item in deployed.items() if item["id"] in started}


def deployments_of_the_file() -> list[dict[str, Any]]:
    return list(yaml.safe_load(DEPLOYMENTS.read_text())["deployments"])


def test_every_deployment_of_the_file_is_made(deployed: dict[str, dict[str, Any]]) -> None:
    assert {"nightly", "on-dataset-published", "train", "evaluate", "promote"} <= deployed.keys()
    assert len(deployed) == len(deployments_of_the_file())


def test_the_nightly_build_runs_in_the_pool_for_data(deployed: dict[str, dict[str, Any]]) -> None:
    nightly = deployed["nightly"]
    assert nightly["entrypoint"] == "flows/runs/rebuild.py:rebuild"
    assert nightly["work_pool_name"] == "data"
    assert nightly["parameters"] == {"recipe": "shapes", "lake": "lake"}


def test_nightly_builds_run_one_at_a_time_every_night(deployed: dict[str, dict[str, Any]]) -> None:
    assert deployed["nightly"]["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    (schedule,) = deployed["nightly"]["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("nightly", True)
    assert schedule["schedule"]["cron"] == "15 2 * * *"


def test_a_published_version_starts_a_retraining(automations: dict[str, dict[str, Any]]) -> None:
    retrain = automations["on-dataset-published"]
    assert retrain["enabled"]
    assert retrain["trigger"]["expect"] == ["imagen.dataset.published"]
    assert retrain["trigger"]["match"] == {"prefect.resource.id": "imagen.dataset.shapes"}


def test_an_evaluated_model_starts_its_promotion(automations: dict[str, dict[str, Any]]) -> None:
    promote = automations["promote"]
    assert promote["trigger"]["expect"] == ["imagen.model.evaluated"]
    assert promote["actions"][0]["parameters"]["model"] == "{{ event.payload.model }}"


def test_an_entry_point_is_a_file_of_the_checkout_and_a_module_elsewhere() -> None:
    files = [deployment["entrypoint"] for deployment in deployments_of_the_file()]
    assert [entrypoint(file) for file in files] == files
    for file in files:
        module, _, name = entrypoint(file, checkout=False).rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow), file
