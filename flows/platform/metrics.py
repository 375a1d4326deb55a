"""What Prometheus asks a lake for, read from the lake when it asks: no run has to be there, and it may run anywhere.

What Prefect knows of runs is its own exporter's to say.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.build.dry_run import pending_rows
from data.build.recipe import Recipe, load_recipe
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import TRAINING_FOLDER
from data.publish.versions import datasets, newest_version
from data.report.write import last_build_at
from imagen.models.registry import champion_of, decisions
from imagen.train.measures import newest_measure

MEASURED = {  # of a training's last row, and what each is called here
    "loss": "loss",
    "gradient_norm": "gradient_norm",
    "samples_per_second": "samples_per_second",
    "data_wait": "data_wait_ratio",
    "done": "done_ratio",
}
RECENT_SECONDS = 24 * 3600.0  # a training that measured nothing for so long is none that anybody watches


class LakeMetrics(Collector):
    """Counted anew at most `every` seconds: many may ask, and the lake may be large and far."""

    def __init__(self, lake: Lake, recipes: Sequence[Recipe] = (), every: float = 60.0) -> None:
        self.lake, self.recipes, self.every = lake, recipes, every
        self._lock = Lock()
        self._known: list[Metric] = []
        self._at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is read before somebody asks

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if time.monotonic() - self._at > self.every:
                began = time.perf_counter()
                lake = self.lake.snapshot()
                self._known = [*_tables(lake), *_datasets(lake), *_pending(lake, self.recipes), *_models(lake)]
                self._known.append(_took(time.perf_counter() - began))
                self._at = time.monotonic()
            return self._known


def serve(lake: str, recipes: Sequence[str], host: str, port: int, every: float) -> tuple[int, Callable[[], None]]:
    """Answer at http://HOST:PORT/metrics, in a thread. The port, as 0 is any that is free, and what stops it."""
    registry = CollectorRegistry()
    registry.register(LakeMetrics(Lake.open(lake), [load_recipe(one) for one in recipes], every))
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop


def _tables(lake: Lake) -> Iterator[Metric]:
    rows = GaugeMetricFamily("imagen_table_rows", "Rows of a table: what a stage has done", labels=["table"])
    size = GaugeMetricFamily("imagen_table_bytes", "Bytes of its files, as they are stored", labels=["table"])
    files = GaugeMetricFamily("imagen_table_files", "Files that it consists of", labels=["table"])
    for name in lake.table_names():
        table = lake.table(name)
        sizes = table.file_sizes()
        for family, value in ((rows, table.count_rows()), (size, sum(sizes.values())), (files, len(sizes))):
            family.add_metric([name], value)
    yield from (rows, size, files)


def _datasets(lake: Lake) -> Iterator[Metric]:
    version = GaugeMetricFamily("imagen_dataset_version", "The newest version", labels=["dataset"])
    samples = GaugeMetricFamily("imagen_dataset_samples", "Samples of the newest version", labels=["dataset"])
    at = GaugeMetricFamily("imagen_dataset_published_timestamp_seconds", "When it was published", labels=["dataset"])
    built = GaugeMetricFamily(
        "imagen_dataset_built_timestamp_seconds",
        "When a build of it came to a good end, also if nothing had changed",
        labels=["dataset"],
    )
    for name in datasets(lake):
        if last := last_build_at(lake, name):
            built.add_metric([name], last.timestamp())
        if found := newest_version(lake, name):
            version.add_metric([name], found.version)
            samples.add_metric([name], found.record["kept"])
            at.add_metric([name], found.at.timestamp())
    yield from (version, samples, at, built)


def _pending(lake: Lake, recipes: Sequence[Recipe]) -> Iterator[Metric]:
    found = GaugeMetricFamily("imagen_pending_rows", "Rows that a stage has still to do", labels=["dataset", "stage"])
    for recipe in recipes:
        for stage, rows in pending_rows(lake, recipe).items():
            found.add_metric([recipe.name, stage], rows)
    yield found


def _models(lake: Lake) -> Iterator[Metric]:
    past = decisions(lake)
    champion = GaugeMetricFamily("imagen_champion", "The number of a name's champion", labels=["name"])
    counted = CounterMetricFamily("imagen_gate_decisions", "What was decided of models", labels=["name", "act"])
    for name in sorted({one.name for one in past}):
        own = [one for one in past if one.name == name]
        if (number := champion_of(own)) is not None:
            champion.add_metric([name], number)
        for act in sorted({one.act for one in own}):
            counted.add_metric([name, act], sum(one.act == act for one in own))
    yield from (champion, counted)
    measures = {
        key: GaugeMetricFamily(f"imagen_training_{called}", f"{key} of a training", labels=["training", "stage"])
        for key, called in MEASURED.items()
    }
    for training, stage, row in _trainings(lake):
        for key, family in measures.items():
            if key in row:
                family.add_metric([training, stage], row[key])
    yield from measures.values()


def _trainings(lake: Lake) -> Iterator[tuple[str, str, dict[str, float]]]:
    """The last measures of each stage that was trained lately."""
    url = storage.join(lake.url, TRAINING_FOLDER)
    for training in storage.folders(url) if storage.exists(url) else []:
        for stage in storage.folders(storage.join(url, training)):
            row = newest_measure(storage.join(url, training, stage, "measures"))
            if row and time.time() - row["at"] < RECENT_SECONDS:
                yield training, stage.removeprefix("stage-"), row


def _took(seconds: float) -> Metric:
    return GaugeMetricFamily("imagen_metrics_seconds", "What it took to read all of this from the lake", value=seconds)
