"""What Prometheus reads, over HTTP from a real lake, and a dashboard that asks for nothing else."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from data.lake.lake import Lake
from data.report.write import record_build
from flows.platform.metrics import serve
from imagen.models.registry import add_decision
from tests.conftest import write_recipe
from tests.lakes.trained import make_trained_lake

ROOT = Path(__file__).parents[3]
IMAGEN = str(Path(sys.executable).with_name("imagen"))
Told = dict[str, dict[tuple[tuple[str, str], ...], float]]  # by name and labels


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = make_trained_lake(tmp_path_factory.mktemp("watched"))
    add_decision(lake, "little", "promote", 1, None, "the first", who="ann")
    record_build(lake, "drawn", 1)
    return lake


@pytest.fixture(scope="module")
def recipe(lake: Lake, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"), world / "pairs.parquet")


def read(port: int) -> Told:
    told: Told = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                told.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return told


def test_it_says_what_the_lake_holds(lake: Lake, recipe: Path) -> None:
    port, stop = serve(lake.url, [str(recipe)], "127.0.0.1", 0, 0)
    try:
        told = read(port)
        pairs = (("table", "pairs"),)
        assert told["imagen_table_rows"][pairs] == lake.table("pairs").count_rows() == 24
        assert told["imagen_table_bytes"][pairs] == sum(lake.table("pairs").file_sizes().values())
        assert told["imagen_dataset_version"] == {(("dataset", "drawn"),): 1}
        assert told["imagen_dataset_samples"] == {(("dataset", "drawn"),): 24}
        assert time.time() - told["imagen_dataset_built_timestamp_seconds"][(("dataset", "drawn"),)] < 3600
        assert told["imagen_pending_rows"][("dataset", "shapes"), ("stage", "download")] == 24
        assert told["imagen_champion"] == {(("name", "little"),): 1}
        assert told["imagen_gate_decisions_total"] == {(("act", "promote"), ("name", "little")): 1}
        assert len(told["imagen_training_loss"]) == 2
        assert set(told["imagen_training_done_ratio"].values()) == {1.0}
        add_decision(lake, "little", "reject", 1, 1, "a second thought", who="ann")
        assert read(port)["imagen_gate_decisions_total"][("act", "reject"), ("name", "little")] == 1
    finally:
        stop()


def test_what_was_read_is_told_again_for_a_while(lake: Lake) -> None:
    port, stop = serve(lake.url, [], "127.0.0.1", 0, 3600)
    try:
        first = read(port)["imagen_metrics_seconds"]
        assert read(port)["imagen_metrics_seconds"] == first
    finally:
        stop()


def test_the_dashboard_asks_for_what_is_told(lake: Lake, recipe: Path) -> None:
    port, stop = serve(lake.url, [str(recipe)], "127.0.0.1", 0, 60)
    try:
        told = read(port)
    finally:
        stop()
    panels = json.loads((ROOT / "infra/grafana/imagen.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    asked = set()
    for panel in panels:
        for target in panel["targets"]:
            names = re.findall(r"imagen_\w+", target["expr"])
            assert names, target
            for name in names:
                labels = {label for one in told[name] for label, _ in one}
                wanted = re.findall(r"{{(\w+)}}", target["legendFormat"]) + re.findall(r"(\w+)=\"", target["expr"])
                assert set(wanted) <= labels, (panel["title"], name)
            asked |= {*names}
    told_of_lakes = {name for name in told if not name.startswith(("imagen_metrics", "python_", "process_"))}
    assert told_of_lakes == asked, "what is told is shown"


def test_the_command_serves_until_it_is_told_to_stop(lake: Lake) -> None:
    words = [IMAGEN, "metrics", "--lake", lake.url, "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = re.search(r":(\d+)/metrics", process.stdout.readline())
    assert port is not None
    assert "imagen_table_rows" in read(int(port[1]))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_prometheus_is_told_the_commands_port() -> None:
    jobs = {
        job["job_name"]: job for job in yaml.safe_load((ROOT / "infra/prometheus.yml").read_text())["scrape_configs"]
    }
    assert jobs["imagen"]["static_configs"] == [{"targets": ["metrics:9464"]}]
