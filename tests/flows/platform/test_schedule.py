"""`imagen up`: from the runs of a schedule to a champion, and what a person does from the forms of its pages.

The test reads the server's API alone. During the build the server hangs and is killed; during the training PostgreSQL
is started again. In `make nightly` each happens in a platform of its own.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from imagen.models.approvals import approval_of
from imagen.models.registry import decisions
from imagen.models.table import find_model
from tests.command import run_imagen
from tests.conftest import write_recipe
from tests.servers.chromium import looked_at, needs_chromium
from tests.servers.platform import Platform, Run, running_platform
from tests.servers.postgres import BIN as POSTGRES
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.slow
LATER_PAIRS = 8
NIGHTS = 4  # without a worker: their runs are all due
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


@dataclass(frozen=True)
class Disturbance:
    """What happens to the platform before it has a champion."""

    hang_seconds: float | None = None  # of the server during the build, before it is killed
    restart_database_at: str | None = None  # a pattern of files in the lake's folder, when there are some


@dataclass(frozen=True)
class Watched:
    """A platform with its lake, and the folder where its recipe and its sources are."""

    platform: Platform
    lake: Lake
    folder: Path


IN_TURN = Disturbance(hang_seconds=5, restart_database_at="training/*" if POSTGRES else None)
FOR_HALF_A_MINUTE = Disturbance(hang_seconds=30)
DATABASE = Disturbance(restart_database_at="images/*")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(IN_TURN, id="server and database"),
        pytest.param(FOR_HALF_A_MINUTE, id="server for half a minute", marks=pytest.mark.nightly),
        pytest.param(DATABASE, id="database", marks=pytest.mark.nightly),
    ],
)
def disturbance(request: pytest.FixtureRequest) -> Disturbance:
    disturbance: Disturbance = request.param
    if disturbance.restart_database_at and POSTGRES is None:
        pytest.skip("there is no PostgreSQL (Debian: postgresql)")
    return disturbance


@pytest.fixture(scope="module")
def postgres(disturbance: Disturbance) -> Iterator[Postgres | None]:
    if disturbance.restart_database_at is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="imagen-") as folder:  # pytest's folders are root's alone
        server = Postgres(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def watched(
    postgres: Postgres | None, tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("platform")
    lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
    (folder / "few.csv").write_text("prompt\na red star\na blue ring\n")
    (folder / "model.yaml").write_text(CONFIG.replace("SUITE", str(folder / "few.csv")))
    pq.write_table(pq.read_table(world / "pairs.parquet").slice(LATER_PAIRS), folder / "pairs-1.parquet")
    recipe = write_recipe(folder, folder / "pairs-*.parquet")
    words = [str(recipe), "--lake", lake.url, "--config", str(folder / "model.yaml")]
    words += ["--database", postgres.url] if postgres else []
    with running_platform(words, {"IMAGEN_WORKERS": "1"}) as platform:
        yield Watched(platform, lake, folder)


@pytest.fixture(scope="module")
def retrained(watched: Watched, disturbance: Disturbance, postgres: Postgres | None) -> Run:
    """The retraining that the event of shapes@1 started, after the disturbances."""
    platform = watched.platform
    for _ in range(NIGHTS):
        platform.start_run("nightly-shapes")
    platform.wait_for("pictures", lambda: watched.lake.find("images"))
    if disturbance.hang_seconds:
        server = platform.child("server")
        server.suspend()
        time.sleep(disturbance.hang_seconds)
        server.kill()
    if postgres and disturbance.restart_database_at:
        pattern = disturbance.restart_database_at
        platform.wait_for(pattern, lambda: list(Path(watched.lake.url).glob(pattern)))
        postgres.stop()
        time.sleep(3)
        postgres.start()
    return platform.wait_for_run_of("retrain")


@pytest.fixture(scope="module")
def completed(retrained: Run, watched: Watched) -> list[tuple[str, str]]:
    """Flow and name of each run that came to a good end, until there is a champion."""
    flows = {flow["id"]: flow["name"] for flow in watched.platform.api("flows/filter")}
    runs = watched.platform.api("flow_runs/filter")
    return [
        (flows[run["flow_id"]], run["name"])
        for run in runs
        if run["state_type"] == "COMPLETED" and not run["auto_scheduled"]
    ]


@pytest.fixture(scope="module")
def champion_artifacts(retrained: Run, watched: Watched) -> set[str]:
    """The keys of the artifacts that there are when there is a champion."""
    return {artifact["key"] for artifact in watched.platform.api("artifacts/filter")}


@pytest.fixture(scope="module")
def first_events(retrained: Run, watched: Watched) -> list[dict[str, Any]]:
    """The product's events until there is a champion."""
    return watched.platform.events(len(EVENTS))


def test_every_deployment_is_made_for_the_recipe_and_the_lake(watched: Watched) -> None:
    deployments = watched.platform.names("deployments")
    assert {"nightly-shapes", "on-dataset-published-shapes", "reconcile-shapes", "promote"} <= deployments.keys()
    assert {deployment["parameters"]["lake"] for deployment in deployments.values()} == {watched.lake.url}


def test_a_published_version_starts_a_retraining(retrained: Run, watched: Watched) -> None:
    assert retrained["state_type"] == "COMPLETED", retrained
    assert retrained["deployment_id"] == watched.platform.names("deployments")["on-dataset-published-shapes"]["id"]


def test_one_run_does_the_work_of_all_that_were_due(retrained: Run, watched: Watched) -> None:
    first = sorted(watched.platform.runs("rebuild"), key=lambda run: str(run["created"]))[:NIGHTS]
    assert sorted(run["state_name"] for run in first) == ["Completed", *["Superseded"] * (NIGHTS - 1)]


def test_every_flow_on_the_way_to_a_champion_completes(completed: list[tuple[str, str]]) -> None:
    flows = sorted(flow for flow, _ in completed if flow != "stage")
    assert flows == ["evaluate", "promote", "rebuild", "retrain", "train", "train-stage", "train-stage"]
    assert {"download", "look", "score-clip", "embed-t5", "publish"} <= {name for _, name in completed}


def test_what_a_person_wants_to_see_is_an_artifact(champion_artifacts: set[str]) -> None:
    assert {"funnel-shapes", "histograms-shapes", "progress-download", "progress-publish"} <= champion_artifacts
    assert {"retrain-shapes-shapes", "grids-shapes", "evals-shapes-1", "gate-shapes-1"} <= champion_artifacts


def test_events_arrive_in_the_order_of_what_happened(first_events: list[dict[str, Any]]) -> None:
    assert [event["event"] for event in first_events] == EVENTS
    assert {event["payload"].get("version", 1) for event in first_events} == {1}


def test_the_first_model_is_the_champion(retrained: Run, watched: Watched) -> None:
    (first,) = decisions(watched.lake, "shapes")
    assert (first.act, first.number, first.champion) == ("promote", 1, 1)


def test_the_dataset_and_the_model_are_assets_and_one_is_made_from_the_other(retrained: Run, watched: Watched) -> None:
    body = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}}
    materializations = watched.platform.api("events/filter", body)["events"]
    dataset, models = (f"file://{watched.lake.url}/{name}" for name in ("datasets/shapes", "models/shapes"))
    assert {event["resource"]["prefect.resource.id"] for event in materializations} == {dataset, models}
    (trained,) = (event for event in materializations if event["resource"]["prefect.resource.id"] == models)
    assert dataset in {resource["prefect.resource.id"] for resource in trained["related"]}


@pytest.fixture(scope="module")
def grown(
    retrained: Run,
    completed: list[tuple[str, str]],
    champion_artifacts: set[str],
    first_events: list[dict[str, Any]],
    watched: Watched,
    world: Path,
) -> Run:
    """The next night's build, with more pairs in the source, after the policy has decided on what it published."""
    platform, pairs = watched.platform, pq.read_table(world / "pairs.parquet")
    pq.write_table(pairs.slice(0, LATER_PAIRS), watched.folder / "pairs-2.parquet")
    run = platform.wait_for_run(platform.start_run("nightly-shapes"))
    platform.wait_for("the second decision", lambda: len(platform.runs("retrain")) == 2)
    for retraining in platform.runs("retrain"):
        assert platform.wait_for_run(retraining["id"])["state_type"] == "COMPLETED"
    return run


def test_new_pairs_become_a_second_version(grown: Run, watched: Watched) -> None:
    assert grown["state_type"] == "COMPLETED"
    events = [event for event in watched.platform.events(len(EVENTS) + 1) if event["event"] == EVENTS[0]]
    assert [event["payload"]["version"] for event in events] == [1, 2]
    first, second = (watched.lake.table("datasets/shapes", version).count_rows() for version in (1, 2))
    assert 0 < events[1]["payload"]["added"] == second - first


def test_a_few_new_rows_are_not_worth_a_training(grown: Run, watched: Watched) -> None:
    rows = watched.lake.table("retrains").dataset().to_table(columns=["version", "train"]).to_pylist()
    assert sorted((row["version"], row["train"]) for row in rows) == [(1, True), (2, False)]
    shown = [item for item in watched.platform.api("artifacts/filter") if item["key"] == "retrain-shapes-shapes"]
    assert {item["description"].partition(":")[0] for item in shown} == {
        "Train shapes on shapes@1",
        "Do not train shapes on shapes@2",
    }


def kept_url(lake: Lake) -> str:
    return str(lake.table("datasets/shapes", 1).dataset().head(1, columns=["url"])["url"][0])


@pytest.fixture(scope="module")
def forms(grown: Run, watched: Watched) -> dict[str, Run]:
    """What a person started from the forms of the pages, by deployment."""
    platform = watched.platform
    verified = platform.wait_for_run(platform.start_run("verify"))
    started = {
        "approve-model": platform.start_run("approve-model", model="shapes/1", who="ann", why="its stars are nice"),
        "train-shapes": platform.start_run("train-shapes", config="nowhere.yaml"),
        "forget": platform.start_run("forget", kind="url", what=kept_url(watched.lake), reason="asked by its owner"),
        "evaluate": platform.start_run("evaluate", model="shapes/1"),
    }
    return {"verify": verified} | {name: platform.wait_for_run(run) for name, run in started.items()}


def tables(watched: Watched) -> dict[str, list[dict[str, Any]]]:
    """The rows of each artifact that is a table, by its key."""
    artifacts = watched.platform.api("artifacts/filter")
    return {item["key"]: json.loads(item["data"]) for item in artifacts if item["type"] == "table"}


def test_every_form_starts_a_run(forms: dict[str, Run]) -> None:
    states = {name: run["state_type"] for name, run in forms.items()}
    assert states == {name: "FAILED" if name == "train-shapes" else "COMPLETED" for name in forms}


def test_an_approval_keeps_who_gave_it_and_why(forms: dict[str, Run], watched: Watched) -> None:
    approval = approval_of(watched.lake, find_model(watched.lake, "shapes/1").digest)
    assert approval is not None
    assert (approval.who, approval.why) == ("ann", "its stars are nice")
    assert [decision.who for decision in decisions(watched.lake, "shapes")] == ["the flow promote"]


def test_a_verification_lists_what_is_damaged(forms: dict[str, Run], watched: Watched) -> None:
    rows = tables(watched)["verified"]
    assert [(row["version"], row["damaged"], row["missing"]) for row in rows] == [("shapes@2", 0, 0)]


def test_a_forgotten_pair_is_listed_with_the_versions_and_models_that_had_it(
    forms: dict[str, Run], watched: Watched
) -> None:
    assert [row["seen by"] for row in tables(watched)["forgotten"]] == ["shapes@1", "shapes@2", "shapes/1"]


def test_an_evaluation_starts_a_promotion_by_its_event(forms: dict[str, Run], watched: Watched) -> None:
    platform = watched.platform

    def promotions() -> list[Run]:
        return [run for run in platform.runs("promote") if run["deployment_id"]]

    (run,) = platform.wait_for("a promotion", promotions)
    assert platform.wait_for_run(run["id"])["state_type"] == "COMPLETED"
    assert run["parameters"] == {"model": "shapes/1", "lake": watched.lake.url}


def test_the_status_names_what_is_scheduled_and_what_failed(forms: dict[str, Run], watched: Watched) -> None:
    status = json.loads(run_imagen("status", "--lake", watched.lake.url, "--json", folder=watched.folder).stdout)
    assert {"nightly-shapes", "reconcile-shapes", "verify"} <= {run["deployment"] for run in status["scheduled"]}
    (failed,) = status["failed"]
    assert failed["deployment"] == "train-shapes"
    assert "nowhere.yaml" in failed["why"]
    printed = run_imagen("status", "--lake", watched.lake.url, folder=watched.folder).stdout
    assert "train-on-shapes failed" in printed


def page(platform: Platform, path: str, folder: Path) -> str:
    """What a browser shows of a page of the platform."""
    return looked_at(f"{platform.url}/{path}", folder / "profile", more=["--virtual-time-budget=20000"])[0]


@needs_chromium
def test_the_pages_of_a_build_show_its_funnel_and_histograms(grown: Run, watched: Watched, tmp_path: Path) -> None:
    artifacts = {item["key"]: item["id"] for item in watched.platform.api("artifacts/filter")}
    assert "rebuild-recipe" in page(watched.platform, f"runs/flow-run/{grown['id']}", tmp_path)
    funnel = page(watched.platform, f"artifacts/artifact/{artifacts['funnel-shapes']}", tmp_path)
    assert "not fetched: gone" in funnel
    histograms = page(watched.platform, f"artifacts/artifact/{artifacts['histograms-shapes']}", tmp_path)
    assert "data:image/png;base64," in histograms


@needs_chromium
def test_the_form_of_an_approval_explains_its_fields(watched: Watched, tmp_path: Path) -> None:
    id = watched.platform.names("deployments")["approve-model"]["id"]
    form = page(watched.platform, f"deployments/deployment/{id}/run", tmp_path)
    descriptions = {
        "model": "the approval is tied to the digest of its weights",
        "who": "the person who decides",
        "why": "the reason, stored with the approval",
    }
    for field, description in descriptions.items():
        assert re.search(rf">\s*{field}\s*<", form), field
        assert description in form
