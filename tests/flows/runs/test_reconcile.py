"""The flow `reconcile`: what a killed run left undone is done, once no run works on it."""

from pathlib import Path
from typing import Any

import pytest

from data.lake.lake import Lake
from imagen.models.registry import decisions
from imagen.models.table import models
from tests.flows.flow_process import (
    force_crashed,
    kill_tree,
    result_of,
    start_flow,
    wait_for_training,
    write_config,
)
from tests.lakes.drawn import add_images, make_drawn_lake
from tests.servers.prefect_api import request

RUNNING = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}


@pytest.fixture(scope="module")
def reconciled_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("reconcile")
    write_config(folder, "some", steps=60)
    return add_images(make_drawn_lake(folder, 24))


@pytest.fixture(scope="module")
def reconciled(reconciled_lake: Lake, prefect_server: str) -> dict[str, Any]:
    """What reconciling did: while the server takes a killed run for running, when it knows better, and again."""
    folder, parameters = Path(reconciled_lake.url).parent, {"dataset": "drawn", "config": "some.yaml", "workers": 1}

    def reconcile() -> list[str]:
        return list(result_of(start_flow("reconcile", folder, prefect_server, **parameters)))

    process = start_flow("retrain", folder, prefect_server, **parameters)
    wait_for_training(process, folder)
    kill_tree(process)
    assert not models(reconciled_lake)
    done = {"running": reconcile()}
    for run in request(f"{prefect_server}/flow_runs/filter", RUNNING):
        if run["parameters"].get("lake") == reconciled_lake.url:
            force_crashed(prefect_server, run["id"])
    return done | {"crashed": reconcile(), "again": reconcile()}


def test_work_of_a_running_run_is_left_to_it(reconciled: dict[str, Any]) -> None:
    assert reconciled["running"] == []


def test_what_a_killed_run_left_undone_is_done(reconciled: dict[str, Any], reconciled_lake: Lake) -> None:
    assert reconciled["crashed"] == ["train", "promote"]
    assert [(decision.act, decision.number) for decision in decisions(reconciled_lake, "some")] == [("promote", 1)]


def test_what_is_done_is_not_done_again(reconciled: dict[str, Any]) -> None:
    assert reconciled["again"] == []
