"""Requests to the API of a Prefect server, as its pages send them."""

import json
import urllib.request
from base64 import b64encode
from typing import Any


def request(url: str, body: dict[str, Any] | None = None, login: str | None = None, method: str = "POST") -> Any:
    """The answer of one route; `login` is USER:PASSWORD."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    data = None if method == "GET" else json.dumps(body or {}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as answer:
        return json.loads(answer.read() or "null")


def flow_filter(name: str) -> dict[str, Any]:
    """What asks for the runs of one flow."""
    return {"flows": {"name": {"any_": [name]}}}


def runs_in_lake(server: str, flow: str, lake: str) -> list[dict[str, Any]]:
    """The runs of a flow for one lake, newest first: other tests have theirs on the same server."""
    runs = request(f"{server}/flow_runs/filter", {**flow_filter(flow), "sort": "START_TIME_DESC"})
    return [run for run in runs if run["parameters"].get("lake") == lake]


def subflow_runs(server: str, run: str) -> list[dict[str, Any]]:
    """The runs that one run started."""
    return list(request(f"{server}/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}))


def artifacts_of(server: str, runs: list[str]) -> dict[str, dict[str, Any]]:
    """The artifacts of some runs by their keys."""
    artifacts = request(f"{server}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": runs}}})
    return {artifact["key"]: artifact for artifact in artifacts}
