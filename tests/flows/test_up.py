"""`imagen up`: from nothing to a champion by a schedule's run and an event, watched through the server's API alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from imagen.registry import decisions
from tests.conftest import write_recipe

IMAGEN = str(Path(sys.executable).with_name("imagen"))
CONFIG = """name: shapes
preset: tiny
size: 16
resolutions: [16, 32]
train: {steps: 6, batch: 4, warmup: 0, ema: 0.1, grid_every: null}
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
Api = Callable[..., Any]


@pytest.fixture
def up(tmp_path: Path, world: Path, origin: OriginProcess) -> "Iterator[tuple[Api, Lake, subprocess.Popen[str]]]":
    lake = Lake.make(str(tmp_path / "lake"), hosts={HOST: origin.address})
    (tmp_path / "few.csv").write_text("prompt\na red star\na blue ring\n")
    (tmp_path / "model.yaml").write_text(CONFIG.replace("SUITE", str(tmp_path / "few.csv")))
    recipe = write_recipe(tmp_path, world / "pairs.parquet")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        IMAGEN,
        "up",
        str(recipe),
        "--lake",
        lake.url,
        "--config",
        str(tmp_path / "model.yaml"),
        "--port",
        str(port),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port} shows what runs" in line, line + process.stdout.read()

    def api(path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body or {}).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", data, headers), timeout=20
        ) as answer:
            return json.load(answer)

    yield api, lake, process
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "ended" in said


def test_a_schedules_run_ends_with_a_champion(up: "tuple[Api, Lake, subprocess.Popen[str]]") -> None:
    api, lake, process = up
    there = {one["name"]: one for one in api("deployments/filter")}
    assert {"nightly-shapes", "on-dataset-published-shapes", "reconcile-shapes", "promote"} <= there.keys()
    assert {one["parameters"]["lake"] for one in there.values()} == {lake.url}
    api(f"deployments/{there['nightly-shapes']['id']}/create_flow_run")  # as its schedule does at night
    retrained = ended(api, "retrain", process)
    assert retrained["state_type"] == "COMPLETED", retrained
    assert retrained["deployment_id"] == there["on-dataset-published-shapes"]["id"]
    runs = {one["id"]: one for one in api("flows/filter")}
    names = [runs[one["flow_id"]]["name"] for one in api("flow_runs/filter") if one["state_type"] == "COMPLETED"]
    assert sorted(names) == ["evaluate", "promote", "rebuild", "retrain", "train", "train-stage", "train-stage"]
    keys = {one["key"] for one in api("artifacts/filter")}
    assert {"funnel-shapes", "retrain-shapes-shapes", "evals-shapes-1", "gate-shapes-1"} <= keys
    found = told(api, len(EVENTS))
    assert [one["event"] for one in found] == EVENTS
    assert {one["payload"].get("version", 1) for one in found} == {1}
    assert [(one.act, one.number, one.champion) for one in decisions(lake, "shapes")] == [("promote", 1, 1)]


def told(api: Api, count: int) -> list[dict[str, Any]]:
    """Our events in order, once so many have arrived."""
    found: list[dict[str, Any]] = []
    for _ in range(40):
        found = api("events/filter", {"filter": {"event": {"prefix": ["imagen."]}, "order": "ASC"}})["events"]
        if len(found) >= count:
            break
        time.sleep(0.5)
    return found


def ended(api: Api, flow: str, process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The run of a flow, once it has ended."""
    for _ in range(240):
        assert process.poll() is None
        for one in api("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}}):
            if one["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return dict(one)
        time.sleep(1)
    raise AssertionError(f"{flow} did not end: {api('flow_runs/filter')}")
