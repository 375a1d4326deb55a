"""`imagen report`: one self-contained page on a model, for whoever decides whether it is trusted.

Prompts, names and captions are hostile text: the template escapes all that it is given, and the page's own policy
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
from imagen.errors import ConfigError
from imagen.evaluate.compare import Difference, compare, direction, side_by_side
from imagen.evaluate.evaluation import Evaluation, plan_evaluation
from imagen.evaluate.sweep import choose_axes, plot, stored_points
from imagen.models.registry import decisions, rival_of, state_of
from imagen.models.table import TrainedModel, find_model
from imagen.train.measures import loss_curve
from imagen.train.setup import grid_urls, training_url

GRIDS_SHOWN = 4  # of each stage, over its training
WORST_SHOWN = 12  # prompts
PAIRS_SHOWN = 8  # of pictures beside each other


@dataclass(frozen=True)
class Stage:
    """How one model of the cascade was trained."""

    name: str
    steps: int
    seconds: float
    loss: Markup | None
    grids: list[tuple[str, str]]  # name, and the picture as a data URL


@dataclass(frozen=True)
class WorstPrompt:
    prompt: str
    category: str
    said: dict[str, float]
    picture: str


def plan_report(
    lake: Lake, reference: str, settings: EvaluateSettings | None = None
) -> tuple[TrainedModel, Evaluation, Evaluation | None]:
    """A model, its evaluation by its gate's settings or others, and the same of the champion it is held against."""
    trained = find_model(lake, reference)
    settings = settings or gate_of(trained).evaluate
    rival = rival_of(decisions(lake, trained.name), trained.number)
    evaluation = plan_evaluation(lake, trained.reference, settings)
    return trained, evaluation, None if rival is None else evaluation.for_model(f"{trained.name}/{rival}")


def report(
    trained: TrainedModel, evaluation: Evaluation, rows: list[dict[str, Any]], against: Evaluation | None
) -> str:
    """The page's text: of an evaluation's rows, and beside another evaluation of the same prompts and seeds."""
    lake = evaluation.lake
    past = decisions(lake, trained.name)
    version = version_of(lake, trained.dataset, trained.version)
    differences = compare(against, evaluation) if against else []
    judged = leading_metric(evaluation)
    return _page().render(
        model=trained,
        state=state_of(past, trained.number),
        decisions=[one for one in past if one.number == trained.number],
        version=version,
        recipe=as_yaml(settings_as_written(version.record["recipe"])),
        config=as_yaml(settings_as_written(trained.config)),
        stages=_stages(lake, trained),
        evaluation=evaluation,
        rows=_in_order(rows),
        against=against.model if against else None,
        differences={(one.metric, one.slice): one for one in differences},
        verdicts={(one.metric, one.slice): _verdict(one) for one in differences},
        sweep=_sweep(evaluation),
        pairs=_data_url(side_by_side(against, evaluation, judged, PAIRS_SHOWN)) if against else None,
        judged=judged,
        worst=_worst(evaluation, judged),
    )


def write_report(
    trained: TrainedModel, evaluation: Evaluation, rows: list[dict[str, Any]], against: Evaluation | None
) -> str | None:
    """The page beside what is left of the training; where it lies. None where no picture is measured by itself."""
    if not evaluation.picture_values:
        return None
    url = storage.join(training_url(evaluation.lake, trained.name, trained.id), GRIDS_PAGE)
    storage.write(url, report(trained, evaluation, rows, against).encode())
    return url


def leading_metric(evaluation: Evaluation) -> str:
    """The metric of single pictures that prompts are ordered by."""
    if not evaluation.picture_values:
        raise ConfigError("nothing is measured of single pictures: score with a CLIP model, or use the suite shapes")
    return next(iter(evaluation.picture_values))


def _stages(lake: Lake, trained: TrainedModel) -> list[Stage]:
    folder = training_url(lake, trained.name, trained.id)
    return [
        Stage(name, int(said["steps"]), said["seconds"], *_trained(storage.join(folder, name)))
        for name, said in trained.stages.items()
    ]


def _trained(url: str) -> tuple[Markup | None, list[tuple[str, str]]]:
    """What is left of a stage's training: a lake's owner may have removed it."""
    curve = loss_curve(storage.join(url, "measures"))
    grids = grid_urls(url)
    some = [grids[at] for at in np.unique(np.linspace(0, len(grids) - 1, GRIDS_SHOWN).astype(int))] if grids else []
    return curve, [(grid.rpartition("/")[2].removesuffix(".png"), _encoded(storage.read(grid))) for grid in some]


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All prompts first, then slice by slice."""
    slices = list(dict.fromkeys(row["slice"] for row in rows))
    return sorted(rows, key=lambda row: slices.index(row["slice"]))


def _verdict(one: Difference) -> str:
    """better or worse, if that is not by chance."""
    way = direction(one.metric)
    low, high = sorted((way * one.figure.low, way * one.figure.high))
    return "better" if low > 0 else "worse" if high < 0 else ""


def _sweep(evaluation: Evaluation) -> Markup | None:
    if not evaluation.features:
        return None
    axes = choose_axes(evaluation)
    points = stored_points(evaluation, axes)
    return plot(points, axes) if len(points) > 1 else None


def _worst(evaluation: Evaluation, metric: str) -> list[WorstPrompt]:
    """Prompts whose pictures that metric has lowest, then the other metrics."""
    prompts, order = (
        evaluation.generation.suite.prompts,
        [metric, *(name for name in evaluation.picture_values if name != metric)],
    )
    means = {name: _by_prompt(evaluation.picture_values[name], evaluation.prompt_numbers) for name in order}
    ranks = [np.nan_to_num(means[name], nan=np.inf) for name in order]  # what nobody asked is not the worst
    numbers = sorted(range(len(prompts)), key=lambda at: tuple(rank[at] for rank in ranks))[:WORST_SHOWN]
    pictures = evaluation.pictures(numbers)
    return [
        WorstPrompt(
            prompts[at].text,
            prompts[at].category,
            {name: float(means[name][at]) for name in order if not np.isnan(means[name][at])},
            _data_url(picture),
        )
        for at, picture in zip(numbers, pictures, strict=True)
    ]


def _by_prompt(values: np.ndarray, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    means: np.ndarray = np.bincount(numbers, values) / np.bincount(numbers)
    return means


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _encoded(buffer.getvalue())


def _encoded(png: bytes) -> str:
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
