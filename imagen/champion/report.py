"""`imagen report`: a self-contained HTML page about a model, for the person who decides whether to use it.

Prompts, names and captions are untrusted text: the template escapes all values, and the page's content security policy
forbids scripts and requests.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import GRIDS_PAGE
from data.publish.versions import version_of
from data.report.card import as_yaml, settings_as_written
from data.report.report import format_number
from imagen.champion.promote import gate_of
from imagen.config.evaluation import EvaluateSettings
from imagen.evaluate.compare import Difference, compare, direction, leading_metric, side_by_side
from imagen.evaluate.evaluation import Evaluation, plan_evaluation
from imagen.evaluate.sweep import choose_axes, plot, stored_points
from imagen.models.registry import decisions, rival_of, state_of
from imagen.models.table import TrainedModel, find_model
from imagen.train.measures import loss_curve
from imagen.train.setup import grid_urls, training_url

GRIDS_SHOWN = 4  # sample grids of each stage, evenly spaced over its training
WORST_SHOWN = 12  # prompts
PAIRS_SHOWN = 8  # prompts in the comparison with the champion


@dataclass(frozen=True)
class Stage:
    """The training of one stage of the cascade; `loss` is its curve as SVG."""

    name: str
    steps: int
    seconds: float
    loss: Markup | None
    grids: list[tuple[str, str]]  # name, and picture as a data URL


@dataclass(frozen=True)
class WorstPrompt:
    """A prompt with a low score: its mean value of each metric, and its first picture as a data URL."""

    prompt: str
    category: str
    values: dict[str, float]
    picture: str


def plan_report(
    lake: Lake, reference: str, settings: EvaluateSettings | None = None
) -> tuple[TrainedModel, Evaluation, Evaluation | None]:
    """Plan the evaluations of a model's report; nothing is evaluated yet.

    Args:
        reference: NAME or NAME/NUMBER.
        settings: by default the settings of the gate in the model's configuration.

    Returns:
        The model, its evaluation, and the same evaluation of its rival. The rival is the champion, or the previous
        champion if the model is champion; None if there is no rival.

    Raises:
        ModelNotFound: the lake has no such model.
    """
    trained = find_model(lake, reference)
    settings = settings or gate_of(trained).evaluate
    rival = rival_of(decisions(lake, trained.name), trained.number)
    evaluation = plan_evaluation(lake, trained.reference, settings)
    return trained, evaluation, None if rival is None else evaluation.for_model(f"{trained.name}/{rival}")


def report(
    trained: TrainedModel, evaluation: Evaluation, rows: list[dict[str, Any]], against: Evaluation | None
) -> str:
    """Return the page's HTML.

    Args:
        rows: the evaluation's rows of `evals`.
        against: a complete evaluation of a rival on the same prompts and seeds.

    Raises:
        ConfigError: no metric of single pictures is measured.
    """
    lake = evaluation.lake
    history = decisions(lake, trained.name)
    version = version_of(lake, trained.dataset, trained.version)
    differences = compare(against, evaluation) if against else []
    metric = leading_metric(evaluation)
    return _page().render(
        model=trained,
        state=state_of(history, trained.number),
        decisions=[decision for decision in history if decision.number == trained.number],
        version=version,
        recipe=as_yaml(settings_as_written(version.record["recipe"])),
        config=as_yaml(settings_as_written(trained.config)),
        stages=_stages(lake, trained),
        evaluation=evaluation,
        rows=_sort_by_slice(rows),
        against=against.model if against else None,
        differences={(item.metric, item.slice): item for item in differences},
        verdicts={(item.metric, item.slice): _verdict(item) for item in differences},
        sweep=_sweep_chart(evaluation),
        pairs=_data_url(side_by_side(against, evaluation, metric, PAIRS_SHOWN)) if against else None,
        judged=metric,
        worst=_worst_prompts(evaluation, metric),
    )


def write_report(
    trained: TrainedModel, evaluation: Evaluation, rows: list[dict[str, Any]], against: Evaluation | None
) -> str | None:
    """Write the page into the model's training folder.

    Returns:
        The URL of the page. If no metric of single pictures is measured, nothing is written and None is returned.
    """
    if not evaluation.picture_values:
        return None
    url = storage.join(training_url(evaluation.lake, trained.name, trained.id), GRIDS_PAGE)
    storage.write(url, report(trained, evaluation, rows, against).encode())
    return url


def _stages(lake: Lake, trained: TrainedModel) -> list[Stage]:
    folder = training_url(lake, trained.name, trained.id)
    stages = []
    for name, stage in trained.stages.items():
        loss, grids = _training_record(storage.join(folder, name))
        stages.append(Stage(name, int(stage["steps"]), stage["seconds"], loss, grids))
    return stages


def _training_record(url: str) -> tuple[Markup | None, list[tuple[str, str]]]:
    """Return a stage's loss curve and some of its sample grids; None and no grids if the files were removed."""
    curve = loss_curve(storage.join(url, "measures"))
    grids = grid_urls(url)
    if not grids:
        return curve, []
    shown = []
    for index in np.unique(np.linspace(0, len(grids) - 1, GRIDS_SHOWN).astype(int)):
        name = grids[index].rpartition("/")[2].removesuffix(".png")
        shown.append((name, _png_url(storage.read(grids[index]))))
    return curve, shown


def _sort_by_slice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort rows: those over all prompts first, then slice by slice."""
    slices = list(dict.fromkeys(row["slice"] for row in rows))
    return sorted(rows, key=lambda row: slices.index(row["slice"]))


def _verdict(difference: Difference) -> str:
    """Return the CSS class of a difference's cell: `better` or `worse` if it is significant, else empty."""
    sign = direction(difference.metric)
    low, high = sorted((sign * difference.figure.low, sign * difference.figure.high))
    if low > 0:
        return "better"
    return "worse" if high < 0 else ""


def _sweep_chart(evaluation: Evaluation) -> Markup | None:
    """Return the chart of all sampling settings that were evaluated, or None if there is only one."""
    if not evaluation.features:
        return None
    axes = choose_axes(evaluation)
    points = stored_points(evaluation, axes)
    return plot(points, axes) if len(points) > 1 else None


def _worst_prompts(evaluation: Evaluation, metric: str) -> list[WorstPrompt]:
    """Return the prompts with the lowest mean value of the metric; ties are sorted by the other metrics."""
    prompts = evaluation.generation.suite.prompts
    metrics = [metric, *(name for name in evaluation.picture_values if name != metric)]
    means = {name: _prompt_means(evaluation.picture_values[name], evaluation.prompt_numbers) for name in metrics}
    ranks = [np.nan_to_num(means[name], nan=np.inf) for name in metrics]  # a prompt without a value is not the worst
    order = sorted(range(len(prompts)), key=lambda number: tuple(rank[number] for rank in ranks))
    numbers = order[:WORST_SHOWN]
    worst = []
    for number, picture in zip(numbers, evaluation.pictures(numbers), strict=True):
        values = {name: float(means[name][number]) for name in metrics if not np.isnan(means[name][number])}
        worst.append(WorstPrompt(prompts[number].text, prompts[number].category, values, _data_url(picture)))
    return worst


def _prompt_means(values: np.ndarray, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the mean of each prompt's values, keyed by the prompt's number."""
    means: np.ndarray = np.bincount(numbers, values) / np.bincount(numbers)
    return means


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _png_url(buffer.getvalue())


def _png_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@lru_cache(maxsize=1)
def _page() -> Template:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("imagen", "pages"), PackageLoader("data", "pages")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": format_number, "count": "{:,}".format}
    return environment.get_template("model.html")
