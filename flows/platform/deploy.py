"""`imagen deploy`: every deployment of `prefect.yaml` on a server, for a lake, its recipes and what is trained."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from data.build.recipe import load_recipe
from data.errors import ServerError
from data.lake import storage
from data.lake.lake import Lake
from flows.server.client import AUTH, asking
from imagen.config.training import load_config

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")  # a link to that of the checkout; a wheel has a copy
AUTOMATIONS = Path(__file__).with_name("automations.yaml")  # as well
CODE = Path(__file__).parents[2]  # the folder of our packages: a checkout, or site-packages
CHECKOUT = (CODE / "prefect.yaml").exists()
POOLS = ("data", "gpu")


def run_deploy(lake: str, recipes: Sequence[str], config: str, workers: str) -> None:
    """On the server at PREFECT_API_URL."""
    if "PREFECT_API_URL" not in os.environ:
        raise ServerError("set PREFECT_API_URL to the server's address, such as http://127.0.0.1:4200/api")
    said = deployments(Lake.open_or_make(lake), recipes, config, workers)
    environment = dict(os.environ)
    if AUTH in os.environ:
        environment.setdefault("PREFECT_API_AUTH_STRING", os.environ[AUTH])
    with tempfile.TemporaryDirectory() as folder:
        deploy(said, workers, environment, Path(folder))


def deploy(said: dict[str, Any], workers: str, environment: dict[str, str], folder: Path) -> None:
    """Make the pools, the deployments and the automations; what is there already is brought up to date."""
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(said, sort_keys=False))
    _same_kind(environment["PREFECT_API_URL"], workers)
    made = (["work-pool", "create", pool, "--type", workers, "--overwrite"] for pool in POOLS)
    with ThreadPoolExecutor() as both:  # each a command of seconds
        list(both.map(lambda words: _run(words, environment), made))
    _run(["--no-prompt", "deploy", "--all", "--prefect-file", str(file)], environment)
    automate(environment["PREFECT_API_URL"])


def deployments(lake: Lake, recipes: Sequence[str], config: str, workers: str = "process") -> dict[str, Any]:
    """What `prefect.yaml` says, for this lake and kind of workers, and each recipe with what follows from it."""
    load_config(config)  # what is wrong with it is told now, not by a run at night
    said: dict[str, Any] = yaml.safe_load(DEPLOYMENTS.read_text())
    kinds = said["definitions"]["workers"]
    if workers not in kinds:
        raise ServerError(f"prefect.yaml knows no workers of the kind {workers}, but: {', '.join(kinds)}")
    url = str(Path(lake.url).absolute()) if storage.is_local(lake.url) else lake.url
    every = []
    for one in said["deployments"]:
        named = recipes if {"recipe", "dataset"} & one["parameters"].keys() else [None]
        for recipe in named:
            made = _deployment(one, url, recipe, config)
            every.append({**made, "work_pool": {**made["work_pool"], "job_variables": kinds[workers]}})
    return {**said, "deployments": every}


def _deployment(one: dict[str, Any], lake: str, recipe: str | None, config: str) -> dict[str, Any]:
    parameters = {**one["parameters"], "lake": lake}
    made = {**one, "entrypoint": entrypoint(one["entrypoint"]), "parameters": parameters}
    if recipe is None:
        return made
    name = load_recipe(recipe).name
    changes = {"recipe": _absolute(recipe), "dataset": name, "config": _absolute(config), "name": name}
    parameters |= {field: value for field, value in changes.items() if field in parameters}
    made |= {"name": f"{one['name']}-{name}", "tags": [tag for tag in one["tags"] if tag != "shapes"] + [name]}
    made["description"] = one["description"].replace("`shapes`", f"`{name}`")
    if "triggers" in one:
        match = {"prefect.resource.id": f"imagen.dataset.{name}"}
        made["triggers"] = [{**trigger, "match": match} for trigger in one["triggers"]]
    return made


def entrypoint(file: str, checkout: bool = CHECKOUT) -> str:
    """The flow that `prefect.yaml` names by its file, `flows/runs/verify.py:verify`, as a run can load it.

    Outside of a checkout that is the module, `flows.runs.verify.verify`, as files are looked up from a run's folder.
    """
    return file if checkout else file.replace(".py:", ".").replace("/", ".")


def run_folder() -> Path:
    """The current folder of servers, workers and runs: a checkout, or the user's where a wheel is installed.

    Never site-packages: `python -m` looks in the current folder before the standard library.
    """
    return CODE if CHECKOUT else Path.cwd()


def _same_kind(url: str, workers: str) -> None:
    """Prefect keeps the kind of a pool that is there, whatever it is told."""
    with asking(url) as client:
        there = {pool.name: pool.type for pool in client.read_work_pools()}
    for pool in POOLS:
        if there.get(pool, workers) != workers:
            raise ServerError(
                f"the pool {pool} is of the kind {there[pool]} there: prefect work-pool delete {pool}, and deploy again"
            )


def automate(url: str) -> None:
    """Make the automations, or bring those of a former run up to date."""
    from prefect.events.schemas.automations import AutomationCore

    with asking(url) as client:
        for said in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            automation = AutomationCore.model_validate(said)
            there = client.read_automations_by_name(automation.name)
            if there:
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)


def _absolute(file: str) -> str:
    return str(Path(file).absolute()) if Path(file).exists() else file


def _run(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(  # in a session of its own: Ctrl-C is for us
        [prefect(), *words], env=environment, cwd=run_folder(), capture_output=True, text=True, start_new_session=True
    )
    if done.returncode:
        raise ServerError(f"prefect {' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def prefect() -> str:
    """Its command, beside ours."""
    beside = Path(sys.executable).with_name("prefect")
    return str(beside) if beside.exists() else shutil.which("prefect") or "prefect"
