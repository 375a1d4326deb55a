"""An evaluation: pictures of a suite's prompts, what is seen in them, and the figures of that as rows of `evals`.

Everything in it is pending until it is there: pictures, what a scorer says of them, the features of the reference, and
each figure. So whatever killed one, the same call does what is missing and comes to the same figures.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from data.build.recipe import AnyScorer
from data.engine.pool import Engine
from data.engine.stage import Plan, ShardResult, Stage, run_stage
from data.lake import storage
from data.lake.lake import Lake
from data.lake.lineage import code_version
from data.lake.sql import query
from data.pictures.prepare import decode
from data.publish.versions import version_of
from data.scorers.clip import ClipScore
from data.scorers.heads import Aesthetic
from data.scorers.scorer import PictureScorer, Scorer, unpack_vectors
from data.scorers.stages import ScorePictures, ScoreVectors
from data.world.grammar import claim_of
from imagen.config.evaluation import EvaluateSettings
from imagen.config.training import TrainConfig
from imagen.errors import ModelNotUsable
from imagen.evaluate.evals import add_evals, find_evals
from imagen.evaluate.generate import BATCH, Asking, Make
from imagen.metrics.distances import OF_REAL, Distance, distances
from imagen.metrics.intervals import Figure, Statistic, mean, statistic
from imagen.metrics.reference import LookAtVersion, vectors_of
from imagen.metrics.shapes import ShapesSeen, shows
from imagen.metrics.suites import load_suite
from imagen.metrics.vqa import ASK_ROWS, asking, vqa_right, vqa_score
from imagen.models.table import TrainedModel, model_url, models

Row = tuple[str, str, Figure]  # metric, slice
SCORERS: TypeAdapter[dict[str, Scorer]] = TypeAdapter(dict[str, AnyScorer])

ALL = "all"  # the slice that is every prompt; the others are its categories
SHARD_ROWS = 500  # of the reference


def plan_evaluation(
    lake: Lake, model: str, settings: EvaluateSettings, dataset: str | None = None, version: int | None = None
) -> "Evaluation":
    """Of a model by its name, folder or URL; against the dataset version of its lineage if none is given."""
    url = model_url(model, lake.url)
    known = next((one for one in models(lake) if storage.join(lake.url, one.folder) == url), None)
    if dataset is None and known is None:
        raise ModelNotUsable(
            f"{model} is no model of {lake.url}, so that nothing says which dataset it learnt: name one with --dataset"
        )
    if dataset is None:
        assert known is not None
        dataset, version = known.dataset, known.version
    real = version_of(lake, dataset, version)
    digest = known.digest if known else _digest_of_weights(url)
    known_scores = SCORERS.validate_python(real.record["recipe"].get("scores", {}))
    scores: dict[str, ClipScore | Aesthetic] = {}
    for asked, kind in ((settings.clip, ClipScore), (settings.aesthetic, Aesthetic)):
        own = {name: one for name, one in known_scores.items() if isinstance(one, kind)}
        scores |= own if asked is None else asked
    if known is not None:
        settings = _as_shown(settings, known)
    suite = load_suite(settings.suite)
    asking = Asking(url, digest, suite, settings.n, settings.seed, settings.sampling)
    name = known.reference if known else model
    return Evaluation(lake, name, asking, real.dataset, real.version, settings, scores)


def _digest_of_weights(url: str) -> str:
    """Of a folder that no table of the lake names."""
    from imagen.models.folder import digest_of
    from imagen.models.model import Imagen

    return digest_of(Imagen.from_pretrained(url))


def _as_shown(settings: EvaluateSettings, model: TrainedModel) -> EvaluateSettings:
    """Real pictures are cut as the model was shown them, unless told otherwise."""
    config = TrainConfig.model_validate(model.config)
    shown = {"side": config.resolved_cascade.stages[-1].resolution, "fit": config.fit}
    changes = {}
    for name, extractor in (("inception", settings.inception), ("dinov2", settings.dinov2)):
        if extractor is not None:
            left = {field: value for field, value in shown.items() if field not in extractor.model_fields_set}
            changes[name] = extractor.model_copy(update=left)
    return settings.model_copy(update=changes)


def evaluate(
    evaluation: "Evaluation",
    engine: Engine,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda written: None,
) -> list[dict[str, Any]]:
    """The rows of `evals`, after doing whatever of them is missing."""

    def run(lake: Lake, stage: Stage, rows: int) -> None:
        run_stage(lake, stage, engine, rows, batch=1, on_plan=on_plan, on_shard=on_shard)

    return completed(evaluation, run)


def completed(evaluation: "Evaluation", run: Callable[[Lake, Stage, int], object]) -> list[dict[str, Any]]:
    """The same by whoever runs a stage of a lake, with its rows a shard."""
    stages = list(evaluation.stages())  # which says whose weights are missing, before a picture is made
    evaluation.asking.ask(evaluation.made)
    for lake, stage, rows in stages:
        run(lake, stage, rows)
    return evaluation.known() or evaluation.record(evaluation.figures())


@dataclass(frozen=True)
class Evaluation:
    """Of one model: what is asked, what is looked at, and against which dataset version."""

    lake: Lake
    model: str  # as it was named
    asking: Asking
    dataset: str
    version: int
    settings: EvaluateSettings
    scores: dict[str, ClipScore | Aesthetic]

    def same_of(self, model: str) -> "Evaluation":
        """What is asked and looked at here, of another model."""
        return plan_evaluation(self.lake, model, self.settings, self.dataset, self.version)

    @cached_property
    def made(self) -> Lake:
        return self.asking.lake(self.lake)

    @cached_property
    def checked(self) -> bool:
        """Whether the world's pixel checker understands every prompt."""
        return all(claim_of(prompt.text) is not None for prompt in self.asking.suite.prompts)

    @property
    def features(self) -> dict[str, PictureScorer]:
        """What pictures are compared by, under the names of metrics: fd_clip, fd_inception."""
        found: dict[str, PictureScorer] = {
            name: score.vectors() for name, score in self.scores.items() if isinstance(score, ClipScore)
        }
        for name, extractor in (("inception", self.settings.inception), ("dinov2", self.settings.dinov2)):
            if extractor is not None:
                found[name] = extractor
        return found

    def stages(self) -> Iterator[tuple[Lake, Stage, int]]:
        """In order, with the lake that each works on and its rows a shard."""
        made = self.made
        yield made, Make(made, self.asking.model, self.asking.sampling), BATCH
        looking: list[PictureScorer] = [*self.features.values()]
        looking += [one for score in self.scores.values() for one in score.inputs()]
        looking += [ShapesSeen()] if self.checked else []
        if looking:
            yield made, ScorePictures(made, tuple({one.table: one for one in looking}.values())), SHARD_ROWS
        for name, score in self.scores.items():
            yield made, ScoreVectors(made, score, f"score-{name}"), SHARD_ROWS
        if self.settings.vqa:
            yield made, asking(made, self.settings.vqa, self.asking.suite), ASK_ROWS
        if self.features:
            reference = tuple(self.features.values())
            yield self.lake, LookAtVersion(self.lake, reference, dataset=self.dataset, version=self.version), SHARD_ROWS

    def distances_of(self, features: str) -> list[Distance]:
        """CMMD's kernel is made for vectors of length 1, as CLIP's are."""
        return [one for one in self.settings.distances if one != "cmmd" or features in self.scores]

    def known(self) -> list[dict[str, Any]]:
        """The rows of `evals`, in the order of its figures; none if one of them is missing."""
        ids = [self.figure_id(metric, part) for metric, part in self.names()]
        there = find_evals(self.lake, ids)
        return [there[id] for id in ids] if there.keys() == set(ids) else []

    def names(self) -> Iterator[tuple[str, str]]:
        """Metric and slice of every figure."""
        every = self.asking.suite.categories
        checked = {prompt.category for prompt in self.asking.suite.prompts if prompt.checks}
        for metric in self.metrics:
            slices = [one for one in every if one in checked or not metric.startswith("vqa_")]
            yield from ((metric, part) for part in (ALL, *slices))
        for name in self.features:
            yield from ((f"{distance}_{name}", ALL) for distance in self.distances_of(name))

    def figures(self) -> Iterator[Row]:
        """Every figure, by metric and slice."""
        for metric, values in self.said.items():
            known = ~np.isnan(values)
            for part, within in self.slices.items():
                if (chosen := within & known).any():
                    yield metric, part, mean(values[chosen], self.asking.seed, self.numbers[chosen])
        for metric, of, groups, resamples in self.between():
            yield metric, ALL, statistic(of, groups, self.asking.seed, resamples)

    def between(self) -> Iterator[tuple[str, Statistic, np.ndarray, int]]:
        """How far made pictures are from real ones: the groups that are resampled for each figure, and how often."""
        for name, scorer in self.features.items():
            real = vectors_of(self.lake, scorer, f"datasets/{self.dataset}", self.version)
            made = unpack_vectors(self.rows[f"{name}_vector"])
            for distance, of, n, resamples in distances(real, made, self.distances_of(name), self.asking.seed):
                groups = np.arange(n) if distance in OF_REAL else self.numbers
                yield f"{distance}_{name}", of, groups, resamples

    @cached_property
    def numbers(self) -> np.ndarray:
        """Of each picture, that of its prompt."""
        return np.array(self.rows["number"])

    @cached_property
    def slices(self) -> dict[str, np.ndarray]:
        """Which pictures are in each: all, then each category's."""
        categories = np.array(self.rows["category"])
        return {ALL: categories == categories} | {one: categories == one for one in self.asking.suite.categories}

    @cached_property
    def said(self) -> dict[str, np.ndarray]:
        """What each metric says of each picture; nan where it says nothing."""
        return {metric: of() for metric, of in self.metrics.items()}

    @property
    def metrics(self) -> dict[str, Callable[[], np.ndarray]]:
        """Those of single pictures, and how each is worked out."""
        found: dict[str, Callable[[], np.ndarray]] = {}
        if self.checked:
            found |= {"right": partial(self._right, sizes=False), "right_sizes": partial(self._right, sizes=True)}
        found |= {f"{name}_score": partial(self._scores, name) for name in self.scores}
        if self.settings.vqa:
            found |= {"vqa_score": self._vqa_score, "vqa_right": self._vqa_right}
        if self.asking.n > 1:
            found |= {f"diversity_{name}": partial(self._diversity, name) for name in self.features}
        return found

    def _right(self, sizes: bool) -> np.ndarray:
        pairs = zip(self.rows["caption"], self.rows["shapes"], strict=True)
        return np.array([shows(caption, seen, sizes) for caption, seen in pairs], float)

    def _scores(self, name: str) -> np.ndarray:
        return np.array(self.rows[f"{name}_score"], float)

    def _vqa_score(self) -> np.ndarray:
        return np.array([vqa_score(of) for of in self.rows["vqa_probabilities"]])

    def _vqa_right(self) -> np.ndarray:
        checks = [self.asking.suite.prompts[number].checks for number in self.numbers]
        return np.array([vqa_right(*of) for of in zip(self.rows["vqa_answers"], checks, strict=True)])

    def _diversity(self, name: str) -> np.ndarray:
        return diversity(unpack_vectors(self.rows[f"{name}_vector"]), self.numbers)

    @cached_property
    def rows(self) -> dict[str, list[Any]]:
        """Pictures in the order of their prompts, with all that was seen in them."""
        made = self.made
        tables: dict[str, tuple[str, str]] = {
            f"{name}_score": (one.table, "score") for name, one in self.scores.items()
        }
        tables |= {f"{name}_vector": (one.table, "vector") for name, one in self.features.items()}
        if self.checked:
            tables["shapes"] = (ShapesSeen().table, "shapes")
        if self.settings.vqa:
            tables |= {f"vqa_{column}": (self.settings.vqa.table, column) for column in ("answers", "probabilities")}
        joins = "".join(f" JOIN t{at} ON t{at}.id = pairs.id" for at in range(len(tables)))
        columns = "".join(f", t{at}.{column} AS {name}" for at, (name, (_, column)) in enumerate(tables.items()))
        found = query(
            f"SELECT pairs.id, caption, extra{columns} FROM pairs{joins}",
            pairs=made.table("pairs").dataset(),
            **{f"t{at}": made.table(table).dataset() for at, (table, _) in enumerate(tables.values())},
        ).to_pylist()
        rows = [{**row, **json.loads(row["extra"])} for row in found]
        rows.sort(key=lambda row: (row["number"], row["again"]))
        return {name: [row[name] for row in rows] for name in rows[0]}

    @cached_property
    def said_settings(self) -> str:
        asked = {"vqa": self.settings.vqa} if self.settings.vqa else {}
        scores = {name: one.id for name, one in {**self.scores, **self.features, **asked}.items()}
        return json.dumps({"n": self.asking.n, "sampling": self.asking.sampling, "scorers": scores}, sort_keys=True)

    def figure_id(self, metric: str, part: str) -> str:
        said = json.dumps([self.asking.id, self.dataset, self.version, self.said_settings, metric, part])
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def pictures(self, numbers: Iterable[int]) -> list[Image.Image]:
        """The first picture of each of these prompts."""
        first = {number: at for at, number in reversed(list(enumerate(self.rows["number"])))}
        ids = [self.rows["id"][first[number]] for number in numbers]
        found = self.made.table("images").find_rows(ids, ["id", "image"]).to_pylist()
        images = {row["id"]: decode(row["image"]) for row in found}
        return [images[id] for id in ids]

    def record(self, figures: Iterable[Row]) -> list[dict[str, Any]]:
        """Rows of `evals` for what is not there yet."""
        common = {
            "model": self.model,
            "digest": self.asking.digest,
            "dataset": self.dataset,
            "version": self.version,
            "suite": self.asking.suite.name,
            "suite_id": self.asking.suite.id,
            "asking": self.asking.id,
            "settings": self.said_settings,
            "seed": self.asking.seed,
            "code": json.dumps(code_version()),
            "made": datetime.now(UTC),
        }
        rows = []
        for metric, part, figure in figures:
            id = self.figure_id(metric, part)
            rows.append({"id": id, "metric": metric, "slice": part, **asdict(figure), **common})
        add_evals(self.lake, rows, {"model": self.model, "suite": self.asking.suite.name})
        return rows


def diversity(vectors: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Of each picture, how far those of the same prompt are from it on average: 1 - cosine."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    found = np.zeros(len(unit))
    for number in np.unique(numbers):
        same = np.flatnonzero(numbers == number)
        likeness = unit[same] @ unit[same].T
        found[same] = 1 - (likeness.sum(1) - np.diag(likeness)) / (len(same) - 1)
    return found
