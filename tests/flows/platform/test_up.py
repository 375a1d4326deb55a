"""`imagen up`: from nothing to a champion by a schedule's run and an event, watched through the server's API alone."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import psutil
import pyarrow.parquet as pq
import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from flows.server.client import AUTH
from imagen.models.approvals import approval_of
from imagen.models.registry import decisions
from imagen.models.table import find_model
from tests.conftest import RECIPE, free_port, write_recipe
from tests.flows.runs.test_models import steps
from tests.servers.chromium import CHROMIUM, looked_at
from tests.servers.postgres import Postgres, needs_postgres
from tests.servers.prefect_api import ask

IMAGEN = str(Path(sys.executable).with_name("imagen"))
CONFIG = """name: shapes
preset: tiny
size: 16
resolutions: [16, 32]
train: {steps: 6, batch: 4, warmup: 0, ema: 0.1, grid_every: 6}
sample: [{steps: 2}, {steps: 2}]
gate:
  evaluate: {suite: SUITE, distances: [kid]}
  rules: [{metric: right, gain: 0}]
"""
EVENTS = [
    "imagen.dataset.published",
    "imagen.model.trained",
    "imagen.model.evaluated",
    "imagen.model.judged",
]
SLEEPY = """
import time
import pyarrow as pa
from data.scorers.scorer import CaptionScorer

class Sleepy(CaptionScorer):
    columns = pa.schema({'letters': pa.int32()})

    def read(self, caption):
        time.sleep(5)
        return {'letters': len(caption)}
"""
MUTE = """
import flows.server.events

flows.server.events.emit_event = lambda *_, **__: None
"""
STOP_SECONDS = 10
MORE = 8  # pairs that come later
SECRET = "a-word-that-is-written-nowhere"
Api = Callable[..., Any]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="imagen-") as folder:  # pytest's are root's alone
        server = Postgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def up(
    request: pytest.FixtureRequest, tmp_path: Path, world: Path, origin: OriginProcess
) -> "Iterator[tuple[Api, Lake, subprocess.Popen[str]]]":
    asked = getattr(request, "param", {})
    auth, database = asked.get("auth"), asked.get("database")
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    (tmp_path / "few.csv").write_text("prompt\na red star\na blue ring\n")
    (tmp_path / "model.yaml").write_text(CONFIG.replace("SUITE", str(tmp_path / "few.csv")))
    pairs = pq.read_table(world / "pairs.parquet")
    pq.write_table(pairs.slice(MORE), tmp_path / "pairs-1.parquet")
    recipe = write_recipe(tmp_path, tmp_path / "pairs-*.parquet")
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    slow = RECIPE.replace("name: shapes", "name: slow").replace("per_host_rate: 5000", "per_host_rate: 2")
    slow = slow.replace("scores:\n", "scores:\n  sleepy: {{scorer: sleepy.Sleepy}}\n")
    (tmp_path / "slow").mkdir()
    write_recipe(tmp_path / "slow", world / "pairs.parquet", shard_rows=10, text=slow)
    words = [str(recipe), str(tmp_path / "slow/recipe.yaml"), "--lake", lake.url]
    words += ["--config", str(tmp_path / "model.yaml")]
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    if database:
        words += ["--database", request.getfixturevalue("postgres").url]
    if auth:
        words.append("--auth")
        environment |= {AUTH: auth, "AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": SECRET}
    with platform(words, environment) as (api, process):
        yield api, lake, process


@contextmanager
def platform(
    words: list[str], more: dict[str, str], imagen: str | Path = IMAGEN
) -> "Iterator[tuple[Api, subprocess.Popen[str]]]":
    """`imagen up` from the line that says where it is to Ctrl-C."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | more
    command = [imagen, "up", *words, "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port} shows what runs" in line, line + process.stdout.read()

    def api(path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        for wait in (1, 2, 4, 8, 16, 16):
            try:
                return ask(f"http://127.0.0.1:{port}/api/{path}", body, more.get(AUTH), method)
            except urllib.error.HTTPError as error:
                if error.code != 503:  # which SQLite's writers are told when there are many
                    raise
                time.sleep(wait)
            except (urllib.error.URLError, OSError):  # it is started again
                time.sleep(wait)
        raise AssertionError(f"{path} is unavailable")

    yield api, process
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "stopped" in said


def becomes_champion(api: Api, lake: Lake, process: "subprocess.Popen[str]", deployment: str) -> None:
    """Of the version that a run of `nightly-shapes` publishes, by its event alone."""
    retrained = ended(api, "retrain", process)
    assert retrained["state_type"] == "COMPLETED", retrained
    assert retrained["deployment_id"] == deployment
    runs = {one["id"]: one for one in api("flows/filter")}
    builds = [one["state_name"] for one in api("flow_runs/filter", of_flow("rebuild")) if due(one)]
    assert sorted(builds) == ["Completed", *["Superseded"] * 3]
    done = [one for one in api("flow_runs/filter") if one["state_type"] == "COMPLETED" and due(one)]
    names = [runs[one["flow_id"]]["name"] for one in done]
    flows = ["evaluate", "promote", "rebuild", "retrain", "train", "train-stage", "train-stage"]
    assert sorted(name for name in names if name != "stage") == flows
    stages = {one["name"] for one in done if runs[one["flow_id"]]["name"] == "stage"}
    assert {"download", "look", "score-clip", "embed-t5", "publish"} <= stages
    keys = {one["key"] for one in api("artifacts/filter")}
    assert {"funnel-shapes", "histograms-shapes", "progress-download", "progress-publish"} <= keys
    assert {"retrain-shapes-shapes", "grids-shapes", "evals-shapes-1", "gate-shapes-1"} <= keys
    found = told(api, len(EVENTS))
    assert [one["event"] for one in found] == EVENTS
    assert {one["payload"].get("version", 1) for one in found} == {1}
    assert [(one.act, one.number, one.champion) for one in decisions(lake, "shapes")] == [("promote", 1, 1)]
    made = api("events/filter", {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}})["events"]
    dataset, models = (f"file://{lake.url}/{name}" for name in ("datasets/shapes", "models/shapes"))
    assert {one["resource"]["prefect.resource.id"] for one in made} == {dataset, models}
    (trained,) = (one for one in made if one["resource"]["prefect.resource.id"] == models)
    assert dataset in {one["prefect.resource.id"] for one in trained["related"]}


def grows(
    api: Api, lake: Lake, process: "subprocess.Popen[str]", there: dict[str, str], world: Path, folder: Path
) -> None:
    """New pairs in the source: the next build publishes a second version, and the policy decides again."""
    before = lake.table("datasets/shapes").count_rows()
    pq.write_table(pq.read_table(world / "pairs.parquet").slice(0, MORE), folder / "pairs-2.parquet")
    run = api(f"deployments/{there['nightly-shapes']}/create_flow_run")["id"]
    assert ended(api, "rebuild", process, run)["state_type"] == "COMPLETED"
    published = [event for event in told(api, len(EVENTS) + 1) if event["event"] == "imagen.dataset.published"]
    assert [event["payload"]["version"] for event in published] == [1, 2]
    added = published[1]["payload"]["added"]
    assert 0 < added == lake.table("datasets/shapes").count_rows() - before
    for _ in range(120):
        retrained = [one for one in api("flow_runs/filter", of_flow("retrain")) if due(one)]
        if len(retrained) == 2 and all(one["state_type"] == "COMPLETED" for one in retrained):
            break
        time.sleep(1)
    assert [one["state_type"] for one in retrained] == ["COMPLETED", "COMPLETED"]
    rows = lake.table("retrains").dataset().to_table(columns=["version", "train"]).to_pylist()
    assert sorted((row["version"], row["train"]) for row in rows) == [(1, True), (2, False)]
    latest = [one for one in api("artifacts/filter") if one["key"] == "retrain-shapes-shapes"]
    assert {one["description"].partition(":")[0] for one in latest} == {
        "Train shapes on shapes@1",
        "Do not train shapes on shapes@2",
    }


def child_of(process: "subprocess.Popen[str]", word: str) -> psutil.Process:
    """A child of the platform, by a word of its command."""
    (found,) = (one for one in psutil.Process(process.pid).children() if word in one.cmdline())
    return found


@needs_postgres
@pytest.mark.parametrize("up", [{"database": True}], indirect=True)
def test_the_same_on_postgresql_which_is_restarted_meanwhile(
    up: "tuple[Api, Lake, subprocess.Popen[str]]", postgres: Postgres, world: Path, tmp_path: Path
) -> None:
    api, lake, process = up
    there = {one["name"]: one["id"] for one in api("deployments/filter")}
    for _ in range(4):
        api(f"deployments/{there['nightly-shapes']}/create_flow_run")
    for _ in range(240):
        if lake.find("images"):
            break
        time.sleep(0.25)
    postgres.stop()
    time.sleep(3)
    postgres.start()
    becomes_champion(api, lake, process, there["on-dataset-published-shapes"])
    grows(api, lake, process, there, world, tmp_path)


def test_a_schedules_run_ends_with_a_champion_though_the_server_is_gone_for_half_a_minute(
    up: "tuple[Api, Lake, subprocess.Popen[str]]", tmp_path: Path, world: Path
) -> None:
    api, lake, process = up
    there = {one["name"]: one for one in api("deployments/filter")}
    assert {"nightly-shapes", "on-dataset-published-shapes", "reconcile-shapes", "promote"} <= there.keys()
    assert {one["parameters"]["lake"] for one in there.values()} == {lake.url}
    for _ in range(4):  # as its schedule does at night, of four nights that nobody worked
        api(f"deployments/{there['nightly-shapes']['id']}/create_flow_run")
    for _ in range(240):
        if lake.find("images"):
            break
        time.sleep(0.25)
    server = child_of(process, "server")
    server.suspend()
    time.sleep(30)
    server.kill()
    becomes_champion(api, lake, process, there["on-dataset-published-shapes"]["id"])
    grows(api, lake, process, {name: one["id"] for name, one in there.items()}, world, tmp_path)
    asked = {
        "approve-model": {"model": "shapes/1", "who": "ann", "why": "its stars are nice"},
        "verify": {},
        "train-shapes": {"config": "nowhere.yaml"},
        "forget": {"kind": "url", "what": str(kept_url(lake)), "reason": "asked by its owner"},
    }
    for name, parameters in asked.items():  # as its form does
        run = api(f"deployments/{there[name]['id']}/create_flow_run", {"parameters": parameters})
        ran = ended(api, name.removesuffix("-shapes"), process, run["id"])
        assert ran["state_type"] == ("FAILED" if name == "train-shapes" else "COMPLETED"), ran
    assert [(one.who, one.why) for one in decisions(lake, "shapes")] == [("the flow promote", ANY)]
    run = api(f"deployments/{there['evaluate']['id']}/create_flow_run", {"parameters": {"model": "shapes/1"}})
    assert ended(api, "evaluate", process, run["id"])["state_type"] == "COMPLETED"
    for _ in range(120):  # which its event starts
        held = [one for one in api("flow_runs/filter", of_flow("promote")) if one["deployment_id"]]
        if held and held[0]["state_type"] == "COMPLETED":
            break
        time.sleep(1)
    assert [(one["state_type"], one["parameters"]) for one in held] == [
        ("COMPLETED", {"model": "shapes/1", "lake": lake.url})
    ]
    given = approval_of(lake, find_model(lake, "shapes/1").digest)
    assert given is not None
    assert (given.who, given.why) == ("ann", "its stars are nice")
    said = {one["key"]: json.loads(one["data"]) for one in api("artifacts/filter") if one["type"] == "table"}
    assert [(row["version"], row["damaged"], row["missing"]) for row in said["verified"]] == [("shapes@2", 0, 0)]
    assert [row["seen by"] for row in said["forgotten"]] == ["shapes@1", "shapes@2", "shapes/1"]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    words = [IMAGEN, "status", "--lake", lake.url]
    status = json.loads(subprocess.run([*words, "--json"], env=environment, capture_output=True, check=True).stdout)
    coming = {run["deployment"]: run["state"] for run in status["scheduled"]}
    assert {"nightly-shapes", "reconcile-shapes", "verify"} <= coming.keys()
    (failed,) = status["failed"]
    assert failed["deployment"] == "train-shapes"
    assert "nowhere.yaml" in failed["why"]
    plain = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert "train-on-shapes failed" in plain
    if CHROMIUM:
        look(api, there, status["url"], tmp_path)


def look(api: Api, there: dict[str, Any], url: str, folder: Path) -> None:
    """The pages that a person opens: a build and what it made, and the form of a deployment."""

    def page(where: str) -> str:
        return looked_at(f"{url}/{where}", folder / "profile", more=["--virtual-time-budget=20000"])[0]

    runs = {one["name"]: one["id"] for one in api("flow_runs/filter")}
    made = {one["key"]: one["id"] for one in api("artifacts/filter")}
    assert "rebuild-recipe" in page(f"runs/flow-run/{runs['rebuild-recipe']}")
    assert "not fetched: gone" in page(f"artifacts/artifact/{made['funnel-shapes']}")
    assert "data:image/png;base64," in page(f"artifacts/artifact/{made['histograms-shapes']}")
    form = page(f"deployments/deployment/{there['approve-model']['id']}/run")
    for field, words in (("model", "your word is for the weights"), ("who", "decides"), ("why", "kept with your word")):
        assert re.search(rf">\s*{field}\s*<", form), field
        assert words in form


def kept_url(lake: Lake) -> str:
    return str(lake.table("datasets/shapes", 1).dataset().head(1, columns=["url"])["url"][0])


@pytest.mark.parametrize("up", [{"auth": f"ann:{SECRET}"}], indirect=True)
def test_a_build_that_was_killed_with_its_worker_is_built_again(up: "tuple[Api, Lake, subprocess.Popen[str]]") -> None:
    api, lake, process = up
    words, environment = [IMAGEN, "status", "--lake", lake.url], {**os.environ, AUTH: f"ann:{SECRET}"}
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 2
    assert "requires a password" in told.stderr
    assert subprocess.run(words, env=environment, capture_output=True).returncode == 0
    made = {one["name"]: one for one in api("automations/filter")}
    mark, again = made["mark runs that died"], made["build again what died"]
    assert (mark["trigger"]["within"], again["actions"][0]["schedule_after"]) == (300, 60)
    mark["trigger"]["within"], again["actions"][0]["schedule_after"] = 45, 1  # not to wait long
    for one in (mark, again):
        del one["trigger"]["id"]
        fields = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
        api(f"automations/{one['id']}", {field: one[field] for field in fields}, "PUT")
    nightly = next(one for one in api("deployments/filter") if one["name"] == "nightly-shapes")
    first = api(f"deployments/{nightly['id']}/create_flow_run")["id"]
    for _ in range(240):
        if lake.find("images"):
            break
        time.sleep(0.25)
    worker = child_of(process, "data")
    lost = [worker, *worker.children(recursive=True)]
    for one in lost:  # nobody is left who could say what became of the run
        one.kill()
    assert ended(api, "rebuild", process, first)["state_type"] == "CRASHED"
    for _ in range(150):
        if second := [one for one in api("flow_runs/filter", of_flow("rebuild")) if one["id"] != first and due(one)]:
            break
        time.sleep(1)
    assert ended(api, "rebuild", process, second[0]["id"])["state_type"] == "COMPLETED"
    assert lake.table("datasets/shapes").count_rows() > 60
    written = [path for path in Path(lake.url).rglob("*") if path.is_file()]  # the server's database and all logs too
    assert {"prefect.db", "server.log", "worker-data.log"} <= {path.name for path in written}
    for secret in (SECRET, base64.b64encode(f"ann:{SECRET}".encode()).decode()):
        assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_what_is_cancelled_stops_at_once_and_goes_on_next_time_also_if_its_event_is_lost(
    up: "tuple[Api, Lake, subprocess.Popen[str]]", tmp_path: Path
) -> None:
    api, lake, process = up
    deployment = next(one for one in api("deployments/filter") if one["name"] == "nightly-slow")
    recipe = tmp_path / "slow/recipe.yaml"
    seconds = {}
    for stage in ("download", "score-sleepy"):
        run = api(f"deployments/{deployment['id']}/create_flow_run")["id"]
        under_way(api, stage, run, process)
        time.sleep(5)
        assert at_work(process)
        began = time.monotonic()
        api(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        while at_work(process):
            time.sleep(0.1)
        seconds[stage] = time.monotonic() - began  # nothing works; its process takes some more to leave
        assert ended(api, "rebuild", process, run)["state_type"] == "CANCELLED"
        recipe.write_text(recipe.read_text().replace("per_host_rate: 2", "per_host_rate: 5000"))
    (tmp_path / "sleepy.py").write_text(SLEEPY.replace("time.sleep(5)", "pass") + MUTE)
    long = (tmp_path / "model.yaml").read_text().replace("steps: 6", "steps: 100000, checkpoint_every: 3")
    (tmp_path / "model.yaml").write_text(long)
    run = api(f"deployments/{deployment['id']}/create_flow_run")["id"]
    assert ended(api, "rebuild", process, run)["state_type"] == "COMPLETED"
    assert lake.table("datasets/slow").count_rows() > 60
    assert max(seconds.values()) < STOP_SECONDS, seconds
    assert not told(api, 1, tries=4), "nobody was told that it is published"
    stopped = [is_cancelled(api, process, tmp_path) for _ in range(2)]
    assert 0 < stopped[0] < stopped[1], "what took it up went on from the checkpoint"
    assert len(list(tmp_path.glob("lake/training/*"))) == 1
    assert [one["parent_task_run_id"] is None for one in api("flow_runs/filter", of_flow("retrain"))] == [False]


def is_cancelled(api: Api, process: "subprocess.Popen[str]", folder: Path) -> int:
    """The step whose checkpoint a training wrote when the run of `reconcile` was cancelled that had begun it."""
    before = steps(folder)[-1:]
    reconcile = next(one for one in api("deployments/filter") if one["name"] == "reconcile-slow")
    api(f"deployments/{reconcile['id']}/pause_deployment")  # its schedule alone, or the hour might come meanwhile
    run = api(f"deployments/{reconcile['id']}/create_flow_run")
    for _ in range(480):
        assert process.poll() is None
        if steps(folder)[-1:] > before:
            break
        time.sleep(0.5)
    api(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(api, "reconcile", process, run["id"])["state_type"] == "CANCELLED"
    return steps(folder)[-1]


def test_run_again_it_takes_up_where_it_was(lake: Lake, world: Path, tmp_path: Path) -> None:
    words = [str(write_recipe(tmp_path, world / "pairs.parquet")), "--lake", lake.url]

    def there(api: Api) -> dict[str, list[str]]:
        kinds = ("deployments", "automations", "work_pools")
        return {kind: sorted(one["name"] for one in api(f"{kind}/filter")) for kind in kinds}

    with platform(words, {}) as (api, process):
        nightly = next(one["id"] for one in api("deployments/filter") if one["name"] == "nightly-shapes")
        run = api(f"deployments/{nightly}/create_flow_run")["id"]
        while not lake.find("images"):
            assert process.poll() is None
            time.sleep(0.25)
        before = there(api)
    with platform(words, {}) as (api, process):
        assert there(api) == before
        assert api(f"flow_runs/{run}", method="GET")["state_type"] == "CRASHED"
        again = api(f"deployments/{nightly}/create_flow_run")["id"]
        assert ended(api, "rebuild", process, again)["state_type"] == "COMPLETED"
    assert lake.table("datasets/shapes").count_rows() > 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere.yaml",), "recipe nowhere.yaml does not exist"),
        (("--config", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("--auth",), f"{AUTH}: set it to USER:PASSWORD"),
        (("--port", "PORT"), "Stop it, or choose another --port"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asked = [word.replace("PORT", str(taken.getsockname()[1])) for word in words]
        done = subprocess.run([IMAGEN, "up", *asked], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "lake/platform").exists()


def at_work(process: "subprocess.Popen[str]") -> list[int]:
    """The engine's workers."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def under_way(api: Api, stage: str, parent: str, process: "subprocess.Popen[str]") -> None:
    """Wait until a stage of a run has begun."""
    for _ in range(480):
        assert process.poll() is None
        wanted = {"flow_runs": {"name": {"any_": [stage]}, "parent_flow_run_id": {"any_": [parent]}}}
        if [one for one in api("flow_runs/filter", wanted) if one["state_type"] == "RUNNING"]:
            return
        time.sleep(0.25)
    raise AssertionError(f"{stage} did not begin: {api('flow_runs/filter')}")


def due(run: dict[str, Any]) -> bool:
    """Not one that a schedule of ours is to start, or has: the hour and the day come when they come."""
    return bool(run["state_type"] != "SCHEDULED" and not run["auto_scheduled"])


def told(api: Api, count: int, tries: int = 40) -> list[dict[str, Any]]:
    """Our events in order, once so many have arrived."""
    found: list[dict[str, Any]] = []
    for _ in range(tries):
        found = api("events/filter", {"filter": {"event": {"prefix": ["imagen."]}, "order": "ASC"}})["events"]
        if len(found) >= count:
            break
        time.sleep(0.5)
    return found


def of_flow(name: str) -> dict[str, Any]:
    return {"flows": {"name": {"any_": [name]}}}


def ended(
    api: Api, flow: str, process: "subprocess.Popen[str]", id: str | None = None, every: float = 1
) -> dict[str, Any]:
    """The run of a flow, once it has ended."""
    for _ in range(240):
        assert process.poll() is None
        for one in api("flow_runs/filter", of_flow(flow)):
            if one["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") and id in (None, one["id"]):
                return dict(one)
        time.sleep(1)
    raise AssertionError(f"{flow} did not end: {api('flow_runs/filter')}")
