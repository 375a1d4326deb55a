"""`prefect.yaml` as a user deploys it: the nightly rebuild, one at a time; what a published version starts."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import yaml
from prefect import Flow

from flows.platform.deploy import DEPLOYMENTS, entrypoint
from tests.servers.prefect_api import ask

ROOT = Path(__file__).parents[3]
PREFECT = str(Path(sys.executable).with_name("prefect"))


def test_every_deployment_deploys(prefect_server: str) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_server}
    pools = (["work-pool", "create", pool, "--type", "process"] for pool in ("data", "gpu"))
    for words in (*pools, ["--no-prompt", "deploy", "--all"]):
        done = subprocess.run([PREFECT, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    (nightly,) = ask(f"{prefect_server}/deployments/filter", {"deployments": {"name": {"any_": ["nightly"]}}})
    assert nightly["entrypoint"] == "flows/runs/rebuild.py:rebuild"
    assert nightly["work_pool_name"] == "data"
    assert nightly["parameters"] == {"recipe": "shapes", "lake": "lake"}
    assert nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"  # type: ignore[index]
    (schedule,) = nightly["schedules"]  # type: ignore[misc]
    assert (schedule["slug"], schedule["active"]) == ("nightly", True)
    assert schedule["schedule"]["cron"] == "15 2 * * *"
    there = {one["name"]: one for one in ask(f"{prefect_server}/deployments/filter", {})}
    assert {"on-dataset-published", "train", "evaluate", "promote"} <= there.keys()
    triggers = ask(f"{prefect_server}/automations/filter", {})
    (retrain,) = (one for one in triggers if "on-dataset-published" in str(one["name"]))
    assert retrain["enabled"]
    assert retrain["trigger"]["expect"] == ["imagen.dataset.published"]  # type: ignore[index]
    assert retrain["trigger"]["match"] == {"prefect.resource.id": "imagen.dataset.shapes"}  # type: ignore[index]
    assert retrain["actions"][0]["deployment_id"] == there["on-dataset-published"]["id"]  # type: ignore[index]
    (promote,) = (one for one in triggers if str(one["name"]).startswith("promote"))
    assert promote["trigger"]["expect"] == ["imagen.model.evaluated"]  # type: ignore[index]
    assert promote["actions"][0]["parameters"]["model"] == "{{ event.payload.model }}"  # type: ignore[index]


def test_an_entry_point_is_a_file_of_the_checkout_and_a_module_elsewhere() -> None:
    files = [one["entrypoint"] for one in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]]
    assert [entrypoint(file) for file in files] == files
    for file in files:
        module, _, name = entrypoint(file, checkout=False).rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow), file
