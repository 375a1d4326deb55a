"""`imagen deploy`: put the deployments of `prefect.yaml` on a Prefect server, for a lake and its recipes."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data.build.recipe import load_recipe
from data.errors import ServerError
from data.lake import storage
from data.lake.lake import Lake
from flows.server.client import AUTH, asking
from imagen.config.training import load_config

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")  # a link to the file of the checkout; a wheel has a copy
AUTOMATIONS = Path(__file__).with_name("automations.yaml")  # the same
CODE = Path(__file__).parents[2]  # the folder with our packages: a checkout, or site-packages
CHECKOUT = (CODE / "prefect.yaml").exists()
POOLS = ("data", "gpu")


def run_deploy(lake: str, recipes: Sequence[str], config: str, workers: str) -> None:
    """Deploy to the server at PREFECT_API_URL.

    Raises:
        ServerError: PREFECT_API_URL is not set, or a command of Prefect failed.
    """
    if "PREFECT_API_URL" not in os.environ:
        raise ServerError("set PREFECT_API_URL to the server's address, such as http://127.0.0.1:4200/api")
    definition = deployments(Lake.open_or_make(lake), recipes, config, workers)
    environment = dict(os.environ)
    if AUTH in os.environ:
        environment.setdefault("PREFECT_API_AUTH_STRING", os.environ[AUTH])
    with tempfile.TemporaryDirectory() as folder:
        deploy(definition, workers, environment, Path(folder))


def deploy(definition: dict[str, Any], workers: str, environment: dict[str, str], folder: Path) -> None:
    """Create or update work pools, deployments and automations.

    Args:
        definition: the content of a `prefect.yaml`, as `deployments` returns it
        workers: type of the work pools: process, docker or kubernetes
        environment: variables of the `prefect` commands; has PREFECT_API_URL
        folder: where the `prefect.yaml` for these commands is written

    Raises:
        ServerError: a pool exists with another type, or a command of Prefect failed.
    """
    file = folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    make_pools(environment["PREFECT_API_URL"], workers)
    _run(["--no-prompt", "deploy", "--all", "--prefect-file", str(file)], environment)
    automate(environment["PREFECT_API_URL"])


def deployments(lake: Lake, recipes: Sequence[str], config: str, workers: str = "process") -> dict[str, Any]:
    """Return the content of `prefect.yaml` for a lake.

    Deployments for a recipe or dataset are repeated for each recipe.

    Raises:
        ServerError: `prefect.yaml` has no such type of workers.
        ImagenError: the configuration or a recipe is wrong.
    """
    load_config(config)  # so that a mistake in it shows now, not in a run at night
    definition: dict[str, Any] = yaml.safe_load(DEPLOYMENTS.read_text())
    job_variables = definition["definitions"]["workers"]
    if workers not in job_variables:
        raise ServerError(f"prefect.yaml has no workers of type {workers}. It has: {', '.join(job_variables)}")
    url = str(Path(lake.url).absolute()) if storage.is_local(lake.url) else lake.url
    adapted = []
    for template in definition["deployments"]:
        for recipe in recipes if {"recipe", "dataset"} & template["parameters"].keys() else [None]:
            deployment = _adapt(template, url, recipe, config)
            work_pool = {**deployment["work_pool"], "job_variables": job_variables[workers]}
            adapted.append({**deployment, "work_pool": work_pool})
    return {**definition, "deployments": adapted}


def _adapt(template: dict[str, Any], lake: str, recipe: str | None, config: str) -> dict[str, Any]:
    """Adapt a deployment of `prefect.yaml` to a lake, and to a recipe if the deployment takes one.

    This changes parameters, name, tags, description and triggers.
    """
    parameters = {**template["parameters"], "lake": lake}
    deployment = {**template, "entrypoint": entrypoint(template["entrypoint"]), "parameters": parameters}
    if recipe is None:
        return deployment
    name = load_recipe(recipe).name
    changes = {"recipe": _absolute(recipe), "dataset": name, "config": _absolute(config), "name": name}
    parameters |= {field: value for field, value in changes.items() if field in parameters}
    deployment["name"] = f"{template['name']}-{name}"
    deployment["tags"] = [*(tag for tag in template["tags"] if tag != "shapes"), name]
    deployment["description"] = template["description"].replace("`shapes`", f"`{name}`")
    if "triggers" in template:
        match = {"prefect.resource.id": f"imagen.dataset.{name}"}
        deployment["triggers"] = [{**trigger, "match": match} for trigger in template["triggers"]]
    return deployment


def entrypoint(file: str, checkout: bool = CHECKOUT) -> str:
    """Return the entry point from which a run loads a flow.

    In a checkout the entry point is the file that `prefect.yaml` names, such as `flows/runs/verify.py:verify`.
    Elsewhere it is the module, `flows.runs.verify.verify`, because a run looks files up in its current folder.
    """
    return file if checkout else file.replace(".py:", ".").replace("/", ".")


def run_folder() -> Path:
    """Return the working directory of servers, workers and runs: the checkout, or the user's if a wheel is installed.

    It is never site-packages, because `python -m` imports from the working directory before the standard library.
    """
    return CODE if CHECKOUT else Path.cwd()


def make_pools(url: str, workers: str) -> None:
    """Create the work pools with Prefect's job template for this type. In existing pools the template is updated.

    Raises:
        ServerError: a pool exists with another type: Prefect cannot change it, and would silently keep it; or this
            environment has no workers of the type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

    with asking(url) as client:
        types = {pool.name: pool.type for pool in client.read_work_pools()}
        for pool in POOLS:
            if types.get(pool, workers) != workers:
                raise ServerError(
                    f"the work pool {pool} exists with type {types[pool]}, which cannot be changed. "
                    f"Delete it and deploy again: prefect work-pool delete {pool}"
                )
        template = asyncio.run(get_default_base_job_template_for_infrastructure_type(workers))
        if template is None:
            raise ServerError(f"Prefect has no workers of type {workers} here: pip install 'imagen[{workers}]'")
        for pool in POOLS:
            pool_definition = WorkPoolCreate(name=pool, type=workers, base_job_template=template, is_paused=False)
            client.create_work_pool(pool_definition, overwrite=True)


def automate(url: str) -> None:
    """Create the automations of `automations.yaml`, or update those with the same names."""
    from prefect.events.schemas.automations import AutomationCore

    with asking(url) as client:
        for definition in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
            automation = AutomationCore.model_validate(definition)
            existing = client.read_automations_by_name(automation.name)
            if existing:
                client.update_automation(existing[0].id, automation)
            else:
                client.create_automation(automation)


def _absolute(file: str) -> str:
    return str(Path(file).absolute()) if Path(file).exists() else file


def _run(arguments: list[str], environment: dict[str, str]) -> None:
    result = subprocess.run(
        [prefect(), *arguments],
        env=environment,
        cwd=run_folder(),
        capture_output=True,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches only this process
    )
    if result.returncode:
        raise ServerError(f"prefect {' '.join(arguments)} failed: {(result.stderr or result.stdout).strip()[-500:]}")


def prefect() -> str:
    """Return the path of the `prefect` command: the one in this environment, or else the one on PATH."""
    command = Path(sys.executable).with_name("prefect")
    return str(command) if command.exists() else shutil.which("prefect") or "prefect"
