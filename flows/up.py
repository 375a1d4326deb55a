"""`imagen up`: the platform on this machine. Prefect's server, its work pools, a worker for each, every deployment.

The server keeps its runs in SQLite beside the lake's tables, or in the database that is named. All of it are processes
of ours: Ctrl-C ends them, and run again they take up where they were, for what is done lies in the lake.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from data import storage
from data.errors import ServerError
from data.lake import Lake
from data.recipe import load_recipe
from flows.asking import AUTH, URL, asking, home_of
from flows.show import console
from imagen.config import load_config

ROOT = Path(__file__).parent.parent
DEPLOYMENTS = ROOT / "prefect.yaml"
AUTOMATIONS = ROOT / "infra/automations.yaml"
POOLS = ("data", "gpu")
START_SECONDS, STOP_SECONDS = 120, 40  # a worker gives a training 30 s for a checkpoint


def run_up(
    lake: str, recipes: Sequence[str], config: str, host: str, port: int, database: str | None, auth: bool = False
) -> None:
    """Until Ctrl-C."""
    if auth and ":" not in os.environ.get(AUTH, ""):
        raise ServerError(f"set {AUTH} to the USER:PASSWORD that the server is to ask for")
    if AUTH not in os.environ and host not in ("127.0.0.1", "localhost", "::1"):
        console.print(f"[yellow]Whoever reaches {host}:{port} may run anything here: use --auth.[/]", soft_wrap=True)
    load_config(config)  # what is wrong with it is told now, not by a run at night
    opened = Lake.open_or_make(lake)
    said = deployments(opened, recipes, config)
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise ServerError(f"something answers at {host}:{port} already: end it, or choose another --port")
    url, home = f"http://{host}:{port}", home_of(opened)
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # who falls silent has died
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server says while its database is started again
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    if AUTH in os.environ:
        environment["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]  # of the workers and their runs
    with ExitStack() as stack, ended() as told:
        words = ["server", "start", "--host", host, "--port", str(port), "--log-level", "ERROR"]
        server = stack.enter_context(started("server", words, environment, home))
        wait(server, url, home)
        (home / URL).write_text(f"{url}/api")
        file = home / "prefect.yaml"
        file.write_text(yaml.safe_dump(said, sort_keys=False))
        for pool in POOLS:
            run(["work-pool", "create", pool, "--type", "process", "--overwrite"], environment)
        run(["--no-prompt", "deploy", "--all", "--prefect-file", str(file)], environment)
        automate(f"{url}/api")
        workers = [
            stack.enter_context(started(f"worker-{pool}", ["worker", "start", "--pool", pool], environment, home))
            for pool in POOLS
        ]
        console.print(f"[bold]{url}[/] shows what runs; the lake is {lake}. Ctrl-C ends all of it.", soft_wrap=True)
        while not told and all(one.poll() is None for one in (server, *workers)):
            time.sleep(0.5)
        if not told:
            raise ServerError(f"the server or a worker ended by itself; its words are in {home}/*.log")
    console.print("ended")


def deployments(lake: Lake, recipes: Sequence[str], config: str) -> dict[str, Any]:
    """What `prefect.yaml` says, for this lake, and each recipe with what follows from it."""
    said: dict[str, Any] = yaml.safe_load(DEPLOYMENTS.read_text())
    url = str(Path(lake.url).absolute()) if storage.is_local(lake.url) else lake.url
    every = []
    for one in said["deployments"]:
        named = recipes if {"recipe", "dataset"} & one["parameters"].keys() else [None]
        for recipe in named:
            every.append(_deployment(one, url, recipe, config))
    return {**said, "deployments": every}


def _deployment(one: dict[str, Any], lake: str, recipe: str | None, config: str) -> dict[str, Any]:
    parameters = {**one["parameters"], "lake": lake}
    made = {**one, "parameters": parameters}
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


@contextmanager
def started(
    name: str, words: list[str], environment: dict[str, str], home: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of Prefect's, its words in a log; ended when this ends."""
    with (home / f"{name}.log").open("ab") as log:
        command = [prefect(), *words]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT if name == "server" else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run([prefect(), *words], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(f"prefect {' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-500:]}")


def prefect() -> str:
    """Its command, beside ours."""
    beside = Path(sys.executable).with_name("prefect")
    return str(beside) if beside.exists() else shutil.which("prefect") or "prefect"


def wait(server: "subprocess.Popen[bytes]", url: str, home: Path) -> None:
    for _ in range(START_SECONDS * 2):
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(0.5)
    raise ServerError(f"Prefect's server does not answer at {url}; its words are in {home}/server.log")


@contextmanager
def ended() -> "Iterator[list[int]]":
    """The signals that told us to end."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: told.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
