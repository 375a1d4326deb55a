"""What Prometheus reads over HTTP from a lake, and a dashboard that shows all of it."""

import json
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from data.lake.lake import Lake
from data.report.write import record_build
from flows.platform.metrics import serve
from imagen.models.registry import add_decision
from tests.command import start_imagen
from tests.conftest import write_recipe
from tests.shared import copy_of

ROOT = Path(__file__).parents[3]
ROWS = 24  # of drawn@1
Metrics = dict[str, dict[tuple[tuple[str, str], ...], float]]  # name: labels: value
OF_THE_SERVER = ("imagen_metrics", "python_", "process_")


@pytest.fixture(scope="module")
def measured_lake(one_model_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake whose model little/1 is a champion. Not to be changed."""
    lake = copy_of(one_model_lake, tmp_path_factory.mktemp("measured") / "lake")
    add_decision(lake, "little", "promote", 1, None, "the first", who="ann")
    record_build(lake, "drawn", 1)
    return lake


@pytest.fixture(scope="module")
def measured_recipe(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), world / "pairs.parquet")


@contextmanager
def serving(lake: Lake, recipes: list[Path], seconds: float) -> Iterator[Callable[[], Metrics]]:
    """Serve the metrics of a lake, which are read again after `seconds`; gives a function that requests them."""
    port, stop = serve(lake.url, [str(recipe) for recipe in recipes], "127.0.0.1", 0, seconds)
    try:
        yield lambda: read_metrics(port)
    finally:
        stop()


def read_metrics(port: int) -> Metrics:
    metrics: Metrics = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                metrics.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return metrics


@pytest.fixture(scope="module")
def metrics(measured_lake: Lake, measured_recipe: Path) -> Metrics:
    with serving(measured_lake, [measured_recipe], 60) as read:
        return read()


def test_tables_have_their_rows_and_bytes(metrics: Metrics, measured_lake: Lake) -> None:
    pairs = (("table", "pairs"),)
    assert metrics["imagen_table_rows"][pairs] == measured_lake.table("pairs").count_rows() == ROWS
    assert metrics["imagen_table_bytes"][pairs] == sum(measured_lake.table("pairs").file_sizes().values())


def test_datasets_have_their_version_their_samples_and_the_time_of_their_last_build(metrics: Metrics) -> None:
    dataset = (("dataset", "drawn"),)
    assert metrics["imagen_dataset_version"] == {dataset: 1}
    assert metrics["imagen_dataset_samples"] == {dataset: ROWS}
    assert time.time() - metrics["imagen_dataset_built_timestamp_seconds"][dataset] < 3600


def test_recipes_have_the_rows_that_their_stages_have_still_to_do(metrics: Metrics) -> None:
    assert metrics["imagen_pending_rows"][("dataset", "shapes"), ("stage", "download")] == ROWS


def test_models_have_their_champion_and_what_gates_decided(metrics: Metrics) -> None:
    assert metrics["imagen_champion"] == {(("name", "little"),): 1}
    assert metrics["imagen_gate_decisions_total"] == {(("act", "promote"), ("name", "little")): 1}


def test_trainings_have_the_last_measures_of_each_stage(metrics: Metrics) -> None:
    assert len(metrics["imagen_training_loss"]) == 2
    assert set(metrics["imagen_training_done_ratio"].values()) == {1.0}


def test_what_changes_in_the_lake_is_read_when_it_is_due(measured_lake: Lake, tmp_path: Path) -> None:
    changed = copy_of(measured_lake, tmp_path / "lake")
    rejections = (("act", "reject"), ("name", "little"))
    with serving(changed, [], 0) as read:
        assert rejections not in read()["imagen_gate_decisions_total"]
        add_decision(changed, "little", "reject", 1, 1, "a second thought", who="ann")
        assert read()["imagen_gate_decisions_total"][rejections] == 1


def test_what_was_read_is_kept_for_a_while(measured_lake: Lake) -> None:
    with serving(measured_lake, [], 3600) as read:
        assert read()["imagen_metrics_seconds"] == read()["imagen_metrics_seconds"]


def test_the_dashboard_shows_every_metric_by_labels_that_it_has(metrics: Metrics) -> None:
    panels = json.loads((ROOT / "infra/grafana/imagen.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    shown = set[str]()
    for target in [target for panel in panels for target in panel["targets"]]:
        names = re.findall(r"imagen_\w+", target["expr"])
        assert names, target
        used = re.findall(r"{{(\w+)}}", target["legendFormat"]) + re.findall(r"(\w+)=\"", target["expr"])
        for name in names:
            labels = {label for labels in metrics[name] for label, _ in labels}
            assert set(used) <= labels, target
        shown |= {*names}
    assert {name for name in metrics if not name.startswith(OF_THE_SERVER)} == shown


def test_the_command_serves_until_it_gets_sigterm(measured_lake: Lake) -> None:
    process = start_imagen("metrics", "--lake", measured_lake.url, "--port", "0")
    assert process.stdout is not None
    port = re.search(r":(\d+)/metrics", process.stdout.readline())
    assert port is not None
    assert "imagen_table_rows" in read_metrics(int(port[1]))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_prometheus_asks_the_port_of_the_command() -> None:
    jobs = yaml.safe_load((ROOT / "infra/prometheus.yml").read_text())["scrape_configs"]
    (imagen,) = (job for job in jobs if job["job_name"] == "imagen")
    assert imagen["static_configs"] == [{"targets": ["metrics:9464"]}]
