"""From a dataset version to a champion under Prefect: training in processes of its own, killed and told to stop too."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from data.lake.lake import Lake
from imagen.champion.retrain import TABLE
from imagen.config.training import load_config
from imagen.evaluate.evals import TABLE as EVALS
from imagen.models.approvals import approve
from imagen.models.registry import champion_of, decisions
from imagen.models.table import find_model, models
from imagen.train.setup import plan_training
from imagen.train.train import train
from tests.lakes.drawn import add_images, make_drawn_lake
from tests.servers.prefect_api import ask

CONFIG = """name: little
preset: tiny
size: 16
resolutions: [16, 32]
train: {steps: STEPS, batch: 4, warmup: 0, ema: 0.1, checkpoint_every: 3, grid_every: STEPS}
sample: [{steps: 2}, {steps: 2}]
gate:
  evaluate: {suite: few.csv}
  rules: [{metric: right, gain: 0}]
"""
Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_images(make_drawn_lake(tmp_path, 24))
    (tmp_path / "few.csv").write_text("prompt\na red star\na blue ring\n")
    (tmp_path / "little.yaml").write_text(CONFIG.replace("STEPS", "6"))
    (tmp_path / "long.yaml").write_text(CONFIG.replace("STEPS", "100000").replace("little", "long"))
    return tmp_path


@pytest.fixture
def run(folder: Path, prefect_server: str) -> Run:
    """A flow in a process of its own, as a worker runs it."""

    def start(flow: str, **parameters: Any) -> "subprocess.Popen[str]":
        code = f"import json, sys; from flows.runs.{flow} import {flow}; print('=', {flow}(**json.loads(sys.argv[1])))"
        environment = {**os.environ, "PREFECT_API_URL": prefect_server}
        words = [sys.executable, "-c", code, json.dumps({"lake": str(folder / "lake"), **parameters})]
        return subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def answer(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return next(line[2:] for line in said.splitlines() if line.startswith("= "))


def events(server: str, name: str, lake: str) -> list[dict[str, Any]]:
    """Of one kind and lake, once they have arrived."""
    for _ in range(40):
        asked = {"filter": {"event": {"name": [name]}, "order": "ASC"}, "limit": 50}
        found = [one for one in ask(f"{server}/events/filter", asked)["events"] if one["payload"]["lake"] == lake]
        if found:
            return found
        time.sleep(0.5)
    return []


def promoted(server: str, name: str, lake: str) -> str:
    """Asked in a process of its own: one that has run a flow forks children that end with code 1, also a loader's."""
    from flows.runs.promote import promote

    with temporary_settings({PREFECT_API_URL: server}):
        return promote(name, lake, 1)


def test_a_version_becomes_a_champion_and_the_next_decision_is_told(
    folder: Path, run: Run, prefect_server: str
) -> None:
    lake = Lake.open(str(folder / "lake"))
    asked = {"dataset": "drawn", "config": "little.yaml", "workers": 1}
    assert answer(run("retrain", **asked)) == "little/1"
    assert [(one.act, one.number) for one in decisions(lake, "little")] == [("promote", 1)]
    payload = events(prefect_server, "imagen.model.trained", lake.url)[0]["payload"]
    assert payload == {"lake": lake.url, "model": "little/1", "dataset": "drawn", "version": payload["version"]}
    (evaluated,) = events(prefect_server, "imagen.model.evaluated", lake.url)
    assert (evaluated["resource"]["prefect.resource.id"], evaluated["payload"]["suite"]) == (
        "imagen.model.little",
        "few",
    )
    assert set(evaluated["payload"]["figures"]) == {"right", "right_sizes"}
    (judged,) = events(prefect_server, "imagen.model.judged", lake.url)
    assert (judged["payload"]["act"], judged["resource"]["imagen.act"]) == ("promote", "promote")
    assert answer(run("retrain", **asked)) == "None"
    rows = lake.table(TABLE).dataset().to_table().sort_by("at").to_pylist()
    assert [(row["train"], row["why"]) for row in rows] == [
        (True, "there is no model of it yet"),
        (False, f"nothing changed since little/1 learnt drawn@{payload['version']}"),
    ]
    assert len(models(lake)) == 1
    runs = ask(f"{prefect_server}/flow_runs/filter", {"flows": {"name": {"any_": ["train-stage"]}}})
    assert {"little-stage-1", "little-stage-2"} <= {str(one["name"]) for one in runs}
    artifacts = ask(f"{prefect_server}/artifacts/filter", {})
    keys = {one["key"] for one in artifacts}
    (page,) = folder.glob("lake/training/*/report.html")
    assert "little<span>/1" in page.read_text()
    told = [one["key"] for one in artifacts if str(one["description"]).endswith(f"; report: {page}")]
    assert set(told) == {"evals-little-1", "gate-little-1"}
    assert {"retrain-little-drawn", "evals-little-1", "gate-little-1"} <= keys
    for drawn in ("loss", "grid"):
        assert len([key for key in keys if re.fullmatch(f"{drawn}-little-[0-9a-f]{{12}}-stage-[12]", str(key))]) >= 2
    assert "grids-little" in keys


def test_without_an_approval_nothing_uncertain_is_promoted_also_by_runs_that_are_killed(
    folder: Path, run: Run, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    lake = Lake.open(str(folder / "lake"))
    first = load_config("little.yaml")
    for batch in (4, 3):
        config = first.model_copy(update={"train": first.train.model_copy(update={"batch": batch})})
        assert train(plan_training(lake, config, "drawn"), cpu=True).trained
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:

        def promote(name: str) -> str:
            return alone.submit(promoted, prefect_server, name, lake.url).result()

        assert promote("little/1") == "promote"

        def running() -> bool:
            wanted = {"flows": {"name": {"any_": ["promote"]}}, "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
            found = ask(f"{prefect_server}/flow_runs/filter", wanted)
            return lake.url in {one["parameters"]["lake"] for one in found}  # type: ignore[index]

        def measured() -> int:
            rows = lake.table(EVALS).dataset().to_table(columns=["model"])["model"].to_pylist()
            return rows.count("little/2")

        points: list[Callable[[], object]] = [
            running,
            lambda: len(list(folder.glob("lake/evaluations/*/images"))) == 2,
            measured,
            lambda: len(decisions(lake, "little")) == 2,
        ]
        killed = set[str]()
        for reached in points:
            process = run("promote", model="little/2", workers=1)
            while not reached() and process.poll() is None:
                time.sleep(0.02)
            for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                one.kill()
            process.communicate()
            assert champion_of(decisions(lake, "little")) == 1
            named = {"flow_runs": {"name": {"any_": ["promote-little/2"]}}}
            for one in ask(f"{prefect_server}/flow_runs/filter", named):
                if one["parameters"]["lake"] == lake.url:
                    killed.add(one["id"])  # the last may have told its decision before
                    if one["state_type"] == "RUNNING":
                        force(prefect_server, one["id"], "CRASHED")
        for _ in range(2):
            assert promote("little/2") == "ask"
        approve(lake, find_model(lake, "little/1"), "of other weights", "bob")
        assert promote("little/2") == "ask"
        approve(lake, find_model(lake, "little/2"), "that one", "ann")
        for _ in range(2):  # told again, it is so already
            assert promote("little/2") == "promote"
    runs = ask(f"{prefect_server}/flow_runs/filter", {"flows": {"name": {"any_": ["promote"]}}})
    undisturbed = [one for one in runs if one["parameters"]["lake"] == lake.url and one["id"] not in killed]
    names = [one["state_name"] for one in undisturbed]
    assert names.count("NeedsApproval") == 3
    later = [(one.act, one.who) for one in decisions(lake, "little")][1:]
    assert later[-1] == ("promote", "ann")
    assert len(later) > 4
    assert set(later[:-1]) == {("ask", "the flow promote")}


def test_what_a_killed_run_left_undone_is_done(folder: Path, run: Run, prefect_server: str) -> None:
    lake = Lake.open(str(folder / "lake"))
    (folder / "some.yaml").write_text(CONFIG.replace("STEPS", "60").replace("little", "some"))
    asked = {"dataset": "drawn", "config": "some.yaml", "workers": 1}
    process = run("retrain", **asked)
    training_under(process, folder)
    for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
        one.kill()
    process.communicate()
    assert not models(lake)
    assert answer(run("reconcile", **asked)) == "[]"  # the server thinks that it still runs
    for one in ask(f"{prefect_server}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}):
        if one["parameters"].get("lake") == lake.url:  # type: ignore[attr-defined]
            force(prefect_server, str(one["id"]), "CRASHED")
    assert answer(run("reconcile", **asked)) == "['train', 'promote']"
    assert [(one.act, one.number) for one in decisions(lake, "some")] == [("promote", 1)]
    assert answer(run("reconcile", **asked)) == "[]"


def force(server: str, run: str, state: str) -> None:
    """As a person does on the run's page."""
    ask(f"{server}/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})


def test_a_stage_whose_process_is_killed_goes_on_and_one_told_to_stop_writes_a_checkpoint(
    folder: Path, run: Run
) -> None:
    process = run("train", config="long.yaml", dataset="drawn")
    first = training_under(process, folder)
    first.kill()
    second = training_under(process, folder, but=first.pid)
    before = steps(folder)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not second.is_running()
    stopped = re.search(r"stopped after step (\d+) of stage 1; a checkpoint is written", said)
    assert stopped, said
    assert int(stopped[1]) == steps(folder)[-1] > before[-1]


def training_under(process: "subprocess.Popen[str]", folder: Path, but: int = 0) -> psutil.Process:
    """The process that trains, once it has written another checkpoint."""
    before = steps(folder)
    for _ in range(600):
        children = psutil.Process(process.pid).children(recursive=True)
        found = [one for one in children if one.pid != but and "flows.command" in one.cmdline()]
        if found and steps(folder)[-1:] > before[-1:]:
            return found[0]
        time.sleep(0.2)
    raise AssertionError("nothing is trained")


def steps(folder: Path) -> list[int]:
    return sorted(
        int(path.parent.name.partition("-")[2]) for path in folder.glob("lake/training/*/*/checkpoints/*/state.json")
    )
