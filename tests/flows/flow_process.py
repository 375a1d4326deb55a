"""Flows as processes of their own, as a worker runs them, and the trainings that they start."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from tests.servers.prefect_api import request

CODE = """
import json, sys
from flows.runs.{module} import {flow}
print("=", json.dumps({flow}(**json.loads(sys.argv[1]))))
"""
CONFIG = """name: NAME
preset: tiny
size: 16
resolutions: [16, 32]
train: {steps: STEPS, batch: 4, warmup: 0, ema: 0.1, checkpoint_every: 3, grid_every: STEPS}
sample: [{steps: 2}, {steps: 2}]
gate:
  evaluate: {suite: few.csv}
  rules: [{metric: right, gain: 0}]
"""


def write_config(folder: Path, name: str, steps: int) -> str:
    """Write a training whose gate has a suite of two prompts; gives the name of the configuration's file."""
    (folder / "few.csv").write_text("prompt\na red star\na blue ring\n")
    (folder / f"{name}.yaml").write_text(CONFIG.replace("NAME", name).replace("STEPS", str(steps)))
    return f"{name}.yaml"


def start_flow(flow: str, folder: Path, server: str, **parameters: Any) -> "subprocess.Popen[str]":
    """Start a flow from a folder, on the lake in it."""
    code = CODE.format(module=flow, flow=flow)
    words = [sys.executable, "-c", code, json.dumps({"lake": str(folder / "lake"), **parameters})]
    environment = {**os.environ, "PREFECT_API_URL": server}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def result_of(process: "subprocess.Popen[str]") -> Any:
    """What the flow returned."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return json.loads(next(line[2:] for line in output.splitlines() if line.startswith("= ")))


def kill_tree(process: "subprocess.Popen[str]") -> None:
    """Kill a process and all that it started."""
    parent = psutil.Process(process.pid)
    for member in (*parent.children(recursive=True), parent):
        member.kill()
    process.communicate()


def force_crashed(server: str, run: str) -> None:
    """Set the state of a run, as a person does on its page."""
    request(f"{server}/flow_runs/{run}/set_state", {"state": {"type": "CRASHED"}, "force": True})


def events_of(server: str, name: str, lake: str) -> list[dict[str, Any]]:
    """The events of one name and lake, once there are some."""
    body = {"filter": {"event": {"name": [name]}, "order": "ASC"}, "limit": 50}
    for _ in range(40):
        events = [
            event for event in request(f"{server}/events/filter", body)["events"] if event["payload"]["lake"] == lake
        ]
        if events:
            return events
        time.sleep(0.5)
    return []


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of all whole checkpoints in the lake of a folder, in order."""
    states = folder.glob("lake/training/*/*/checkpoints/*/state.json")
    return sorted(int(state.parent.name.partition("-")[2]) for state in states)


def wait_for_training(process: "subprocess.Popen[str]", folder: Path, other_than: int = 0) -> psutil.Process:
    """The process that trains for a flow, once it has written another checkpoint."""
    before = checkpoint_steps(folder)[-1:]
    for _ in range(1200):
        children = psutil.Process(process.pid).children(recursive=True)
        training = [child for child in children if child.pid != other_than and "flows.command" in child.cmdline()]
        if training and checkpoint_steps(folder)[-1:] > before:
            return training[0]
        time.sleep(0.1)
    raise AssertionError("nothing is trained")
