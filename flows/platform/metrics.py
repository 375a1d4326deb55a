"""`imagen metrics`: metrics of a lake for Prometheus, read from the lake at each scrape.

The endpoint needs no running flow and may run on any machine that reaches the lake. Metrics of runs come from Prefect
itself.
"""

import time
from collections import Counter
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

TRAINING_METRICS = {  # columns of a training's last measures, and the metrics' names
    "loss": "loss",
    "gradient_norm": "gradient_norm",
    "samples_per_second": "samples_per_second",
    "data_wait": "data_wait_ratio",
    "done": "done_ratio",
}
RECENT_SECONDS = 24 * 3600.0  # older trainings are not exported


class LakeMetrics(Collector):
    """Metrics of a lake, cached for `every` seconds, because scrapers can be many and the lake large and remote."""

    def __init__(self, lake: Lake, recipes: Sequence[Recipe] = (), every: float = 60.0) -> None:
        self.lake, self.recipes, self.every = lake, recipes, every
        self._lock = Lock()
        self._cached: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> Iterable[Metric]:
        """Return nothing: otherwise registering the collector would read the lake."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics, from one snapshot of the lake."""
        with self._lock:
            if time.monotonic() - self._read_at > self.every:
                began = time.perf_counter()
                lake = self.lake.snapshot()
                self._cached = [*_tables(lake), *_datasets(lake), *_pending(lake, self.recipes), *_models(lake)]
                self._cached.append(_read_seconds(time.perf_counter() - began))
                self._read_at = time.monotonic()
            return self._cached


def serve(lake: str, recipes: Sequence[str], host: str, port: int, every: float) -> tuple[int, Callable[[], None]]:
    """Serve http://HOST:PORT/metrics in a thread.

    Args:
        lake: folder or URL of the lake
        recipes: recipes whose pending rows are exported
        host: address to listen on
        port: port to listen on; 0 for any free port
        every: seconds for which values are cached

    Returns:
        The port, and a function that stops the server.
    """
    registry = CollectorRegistry()
    registry.register(LakeMetrics(Lake.open(lake), [load_recipe(recipe) for recipe in recipes], every))
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop


def _tables(lake: Lake) -> Iterator[Metric]:
    rows = GaugeMetricFamily("imagen_table_rows", "Rows of a table", labels=["table"])
    size = GaugeMetricFamily("imagen_table_bytes", "Bytes of a table's files, as stored", labels=["table"])
    files = GaugeMetricFamily("imagen_table_files", "Files of a table", labels=["table"])
    for name in lake.table_names():
        table = lake.table(name)
        sizes = table.file_sizes()
        for family, value in ((rows, table.count_rows()), (size, sum(sizes.values())), (files, len(sizes))):
            family.add_metric([name], value)
    yield from (rows, size, files)


def _datasets(lake: Lake) -> Iterator[Metric]:
    version = GaugeMetricFamily("imagen_dataset_version", "Newest version of a dataset", labels=["dataset"])
    samples = GaugeMetricFamily(
        "imagen_dataset_samples", "Samples of the newest version of a dataset", labels=["dataset"]
    )
    published = GaugeMetricFamily(
        "imagen_dataset_published_timestamp_seconds", "When the newest version was published", labels=["dataset"]
    )
    built = GaugeMetricFamily(
        "imagen_dataset_built_timestamp_seconds",
        "When the last build succeeded, even if it changed nothing",
        labels=["dataset"],
    )
    for name in datasets(lake):
        if last := last_build_at(lake, name):
            built.add_metric([name], last.timestamp())
        if newest := newest_version(lake, name):
            version.add_metric([name], newest.version)
            samples.add_metric([name], newest.record["kept"])
            published.add_metric([name], newest.at.timestamp())
    yield from (version, samples, published, built)


def _pending(lake: Lake, recipes: Sequence[Recipe]) -> Iterator[Metric]:
    pending = GaugeMetricFamily("imagen_pending_rows", "Rows that a stage still has to do", labels=["dataset", "stage"])
    for recipe in recipes:
        for stage, rows in pending_rows(lake, recipe).items():
            pending.add_metric([recipe.name, stage], rows)
    yield pending


def _models(lake: Lake) -> Iterator[Metric]:
    past = decisions(lake)
    champion = GaugeMetricFamily(
        "imagen_champion", "Number of the champion among the models of a name", labels=["name"]
    )
    acts = CounterMetricFamily("imagen_gate_decisions", "Decisions about models, by kind", labels=["name", "act"])
    for name in sorted({decision.name for decision in past}):
        of_name = [decision for decision in past if decision.name == name]
        if (number := champion_of(of_name)) is not None:
            champion.add_metric([name], number)
        for act, count in sorted(Counter(decision.act for decision in of_name).items()):
            acts.add_metric([name, act], count)
    yield from (champion, acts)
    measures = {
        key: GaugeMetricFamily(f"imagen_training_{metric}", f"{key} of a training", labels=["training", "stage"])
        for key, metric in TRAINING_METRICS.items()
    }
    for training, stage, row in _trainings(lake):
        for key, family in measures.items():
            if key in row:
                family.add_metric([training, stage], row[key])
    yield from measures.values()


def _trainings(lake: Lake) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield training, stage number and last measures of each stage that was trained in the last day."""
    url = storage.join(lake.url, TRAINING_FOLDER)
    for training in storage.folders(url) if storage.exists(url) else []:
        for stage in storage.folders(storage.join(url, training)):
            row = newest_measure(storage.join(url, training, stage, "measures"))
            if row and time.time() - row["at"] < RECENT_SECONDS:
                yield training, stage.removeprefix("stage-"), row


def _read_seconds(seconds: float) -> Metric:
    return GaugeMetricFamily("imagen_metrics_seconds", "Seconds that reading these metrics took", value=seconds)
