"""The flow `retrain`: a dataset version becomes a champion, and the next decision is not to train."""

import re
from pathlib import Path
from typing import Any

import pytest

from data.lake.lake import Lake
from imagen.champion.retrain import TABLE
from imagen.models.registry import decisions
from imagen.models.table import models
from tests.flows.flow_process import events_of, result_of, start_flow, write_config
from tests.lakes.drawn import add_images, make_drawn_lake
from tests.servers.prefect_api import artifacts_of, runs_in_lake, subflow_runs


@pytest.fixture(scope="module")
def retrain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with drawn@1 and its pictures, and a configuration."""
    folder = tmp_path_factory.mktemp("retrain")
    add_images(make_drawn_lake(folder, 24))
    write_config(folder, "little", steps=6)
    return folder


@pytest.fixture(scope="module")
def retrained_lake(retrain_folder: Path) -> Lake:
    return Lake.open(str(retrain_folder / "lake"))


@pytest.fixture(scope="module")
def returned(retrain_folder: Path, prefect_server: str) -> list[Any]:
    """What the first run returned, and the second."""
    parameters = {"dataset": "drawn", "config": "little.yaml", "workers": 1}
    return [result_of(start_flow("retrain", retrain_folder, prefect_server, **parameters)) for _ in range(2)]


@pytest.fixture(scope="module")
def flow_runs(returned: list[Any], retrained_lake: Lake, prefect_server: str) -> list[dict[str, Any]]:
    """The first run of the flow, its subflows, and theirs."""
    runs = runs_in_lake(prefect_server, "retrain", retrained_lake.url)[-1:]
    for level in (0, 1):
        runs += [below for run in runs[level:] for below in subflow_runs(prefect_server, run["id"])]
    return runs


@pytest.fixture(scope="module")
def run_artifacts(flow_runs: list[dict[str, Any]], prefect_server: str) -> dict[str, dict[str, Any]]:
    return artifacts_of(prefect_server, [run["id"] for run in flow_runs])


def test_a_version_without_a_model_is_trained_and_its_model_promoted(returned: list[Any], retrained_lake: Lake) -> None:
    assert returned[0] == "little/1"
    assert [(decision.act, decision.number) for decision in decisions(retrained_lake, "little")] == [("promote", 1)]


def test_a_version_with_a_model_is_not_trained_again(returned: list[Any], retrained_lake: Lake) -> None:
    assert returned[1] is None
    assert len(models(retrained_lake)) == 1


def test_every_decision_is_kept_with_its_reason(returned: list[Any], retrained_lake: Lake) -> None:
    rows = retrained_lake.table(TABLE).dataset().to_table().sort_by("at").to_pylist()
    version = models(retrained_lake)[0].version
    assert [(row["train"], row["why"]) for row in rows] == [
        (True, "there is no model of it yet"),
        (False, f"nothing changed since little/1 learnt drawn@{version}"),
    ]


def test_the_event_of_a_training_names_the_model_and_what_it_learnt(
    returned: list[Any], retrained_lake: Lake, prefect_server: str
) -> None:
    (trained,) = events_of(prefect_server, "imagen.model.trained", retrained_lake.url)
    version = models(retrained_lake)[0].version
    assert trained["payload"] == {
        "lake": retrained_lake.url,
        "model": "little/1",
        "dataset": "drawn",
        "version": version,
    }


def test_the_event_of_an_evaluation_has_its_figures(
    returned: list[Any], retrained_lake: Lake, prefect_server: str
) -> None:
    (evaluated,) = events_of(prefect_server, "imagen.model.evaluated", retrained_lake.url)
    assert evaluated["resource"]["prefect.resource.id"] == "imagen.model.little"
    assert evaluated["payload"]["suite"] == "few"
    assert set(evaluated["payload"]["figures"]) == {"right", "right_sizes"}


def test_the_event_of_a_judgement_says_what_was_decided(
    returned: list[Any], retrained_lake: Lake, prefect_server: str
) -> None:
    (judged,) = events_of(prefect_server, "imagen.model.judged", retrained_lake.url)
    assert (judged["payload"]["act"], judged["resource"]["imagen.act"]) == ("promote", "promote")


def test_every_stage_is_a_run_named_after_the_model(flow_runs: list[dict[str, Any]]) -> None:
    assert {"little-stage-1", "little-stage-2"} <= {run["name"] for run in flow_runs}


def test_decision_figures_losses_and_grids_are_artifacts(run_artifacts: dict[str, dict[str, Any]]) -> None:
    assert {"retrain-little-drawn", "evals-little-1", "gate-little-1", "grids-little"} <= run_artifacts.keys()
    for kind in ("loss", "grid"):
        pattern = re.compile(rf"{kind}-little-[0-9a-f]{{12}}-stage-[12]")
        assert len([key for key in run_artifacts if pattern.fullmatch(str(key))]) == 2


def test_the_report_of_a_model_is_written_and_artifacts_say_where(
    run_artifacts: dict[str, dict[str, Any]], retrain_folder: Path
) -> None:
    (page,) = retrain_folder.glob("lake/training/*/report.html")
    assert "little<span>/1" in page.read_text()
    naming = {key for key, item in run_artifacts.items() if str(item["description"]).endswith(f"; report: {page}")}
    assert naming == {"evals-little-1", "gate-little-1"}
