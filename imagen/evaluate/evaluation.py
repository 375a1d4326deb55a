"""An evaluation: generate a suite's pictures, score them, and store the figures as rows of `evals`.

Pictures, their scores, the features of the reference and the figures are pending work until they exist. So after a kill
the same call does only the missing work, and its figures are the same.
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
from data.publish.versions import version_of
from data.scorers.clip import ClipScore
from data.scorers.heads import Aesthetic
from data.scorers.scorer import PictureScorer, Scorer, method_of, unpack_vectors
from data.scorers.stages import ScorePictures, ScoreVectors
from data.world.grammar import claim_of
from imagen.config.evaluation import EvaluateSettings
from imagen.config.training import TrainConfig
from imagen.errors import ModelNotUsable
from imagen.evaluate.evals import add_evals, find_evals
from imagen.evaluate.generate import BATCH, GeneratePictures, Generation
from imagen.evaluate.scored_pictures import join_scores, read_first_pictures
from imagen.metrics.distances import SHARES_OF_REAL, Distance, distances
from imagen.metrics.diversity import diversity
from imagen.metrics.intervals import Figure, Statistic, bootstrap_mean, bootstrap_statistic
from imagen.metrics.reference import ScoreReference, load_vectors
from imagen.metrics.shapes import ShapesSeen, matches_prompt
from imagen.metrics.suites import load_suite
from imagen.metrics.vqa import ASK_ROWS, plan_questions, vqa_accuracy, vqa_score
from imagen.models.table import TrainedModel, model_url, models, weights_digest

SCORERS: TypeAdapter[dict[str, Scorer]] = TypeAdapter(dict[str, AnyScorer])

ALL = "all"  # the slice of all prompts; the other slices are categories
SHARD_ROWS = 500


def plan_evaluation(
    lake: Lake, model: str, settings: EvaluateSettings, dataset: str | None = None, version: int | None = None
) -> "Evaluation":
    """Plan the evaluation of a model; nothing is generated yet.

    Args:
        model: NAME/NUMBER, NAME/champion, a folder or a URL.
        dataset: the dataset whose pictures are the reference; by default the version that the model was trained on.
        version: the version of the dataset; by default the newest.

    Raises:
        ModelNotFound: the lake has no such model.
        ModelNotUsable: no dataset is given, and the model is not in the lake's table of models.
        SuiteError: the suite can't be read.
    """
    url = model_url(model, lake.url)
    trained = next((row for row in models(lake) if storage.join(lake.url, row.folder) == url), None)
    if dataset is None and trained is None:
        raise ModelNotUsable(
            f"{lake.url} has no record of how {model} was trained, so its dataset is unknown: name one with --dataset"
        )
    if dataset is None:
        assert trained is not None
        dataset, version = trained.dataset, trained.version
    reference = version_of(lake, dataset, version)
    digest = trained.digest if trained else weights_digest(url)
    recipe_scorers = SCORERS.validate_python(reference.record["recipe"].get("scores", {}))
    scores: dict[str, ClipScore | Aesthetic] = {}
    for configured, kind in ((settings.clip, ClipScore), (settings.aesthetic, Aesthetic)):
        if configured is None:
            scores |= {name: scorer for name, scorer in recipe_scorers.items() if isinstance(scorer, kind)}
        else:
            scores |= configured
    if trained is not None:
        settings = _with_training_size(settings, trained)
    suite = load_suite(settings.suite)
    generation = Generation(url, digest, suite, settings.n, settings.seed, settings.sampling)
    name = trained.reference if trained else model
    return Evaluation(lake, name, generation, reference.dataset, reference.version, settings, scores)


def _with_training_size(settings: EvaluateSettings, model: TrainedModel) -> EvaluateSettings:
    """Return the settings with extractors that crop real pictures as in training, unless they set another crop."""
    config = TrainConfig.model_validate(model.config)
    from_training = {"side": config.resolved_cascade.stages[-1].resolution, "fit": config.fit}
    changes = {}
    for name, extractor in (("inception", settings.inception), ("dinov2", settings.dinov2)):
        if extractor is not None:
            fields = {name: value for name, value in from_training.items() if name not in extractor.model_fields_set}
            changes[name] = extractor.model_copy(update=fields)
    return settings.model_copy(update=changes)


def evaluate(
    evaluation: "Evaluation",
    engine: Engine,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda result: None,
) -> list[dict[str, Any]]:
    """Do the missing work of an evaluation, and return its rows of `evals`. Calling it again changes nothing.

    Args:
        engine: runs the stages.
        on_plan: called with each stage's plan.
        on_shard: called with each shard that is committed.

    Raises:
        TooFewSamples: a metric needs more pictures.
        WeightsNotUsable: a metric's model is missing; raised before a picture is generated.
    """

    def run(lake: Lake, stage: Stage, shard_rows: int) -> None:
        run_stage(lake, stage, engine, shard_rows, batch=1, on_plan=on_plan, on_shard=on_shard)

    return complete_evaluation(evaluation, run)


def complete_evaluation(evaluation: "Evaluation", run: Callable[[Lake, Stage, int], object]) -> list[dict[str, Any]]:
    """Do the same as `evaluate`, but run each stage with a given function.

    Args:
        run: called with a lake, a stage on it, and the number of rows in a shard.
    """
    stages = list(evaluation.stages())  # raises if a metric's weights are missing, before a picture is generated
    evaluation.generation.add_prompts(evaluation.picture_lake)
    for lake, stage, shard_rows in stages:
        run(lake, stage, shard_rows)
    return evaluation.stored_rows() or evaluation.record(evaluation.figures())


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one model: its pictures, the metrics, and the dataset version they are compared with."""

    lake: Lake
    model: str  # NAME/NUMBER, or a folder or URL
    generation: Generation
    dataset: str
    version: int
    settings: EvaluateSettings
    scores: dict[str, ClipScore | Aesthetic]

    def for_model(self, model: str) -> "Evaluation":
        """Return the same evaluation for another model."""
        return plan_evaluation(self.lake, model, self.settings, self.dataset, self.version)

    @cached_property
    def picture_lake(self) -> Lake:
        """The lake of the generated pictures."""
        return self.generation.open_lake(self.lake)

    @cached_property
    def has_pixel_check(self) -> bool:
        """Whether the built-in world's pixel checker understands every prompt."""
        return all(claim_of(prompt.text) is not None for prompt in self.generation.suite.prompts)

    @property
    def features(self) -> dict[str, PictureScorer]:
        """The scorers whose vectors are compared, by the suffix of their metrics: `clip` for `fd_clip`."""
        scorers: dict[str, PictureScorer] = {
            name: score.vectors() for name, score in self.scores.items() if isinstance(score, ClipScore)
        }
        for name, extractor in (("inception", self.settings.inception), ("dinov2", self.settings.dinov2)):
            if extractor is not None:
                scorers[name] = extractor
        return scorers

    def stages(self) -> Iterator[tuple[Lake, Stage, int]]:
        """Yield the stages in order: each with its lake and the number of rows in a shard."""
        lake = self.picture_lake
        yield lake, GeneratePictures(lake, self.generation.model, self.generation.sampling), BATCH
        scorers: list[PictureScorer] = [*self.features.values()]
        for score in self.scores.values():
            scorers += method_of(score, "inputs")()
        if self.has_pixel_check:
            scorers.append(ShapesSeen())
        if scorers:
            distinct = {scorer.table: scorer for scorer in scorers}
            yield lake, ScorePictures(lake, tuple(distinct.values())), SHARD_ROWS
        for name, score in self.scores.items():
            yield lake, ScoreVectors(lake, score, f"score-{name}"), SHARD_ROWS
        if self.settings.vqa:
            yield lake, plan_questions(lake, self.settings.vqa, self.generation.suite), ASK_ROWS
        if self.features:
            extractors = tuple(self.features.values())
            stage = ScoreReference(self.lake, extractors, dataset=self.dataset, version=self.version)
            yield self.lake, stage, SHARD_ROWS

    def distances_of(self, features: str) -> list[Distance]:
        """Return the distances to compute for these features.

        CMMD needs vectors of length 1, so it is for CLIP only.
        """
        return [name for name in self.settings.distances if name != "cmmd" or features in self.scores]

    def stored_rows(self) -> list[dict[str, Any]]:
        """Return the evaluation's rows of `evals`, in the order of its figures; empty if a row is missing."""
        ids = [self.figure_id(metric, part) for metric, part in self.figure_names()]
        rows = find_evals(self.lake, ids)
        return [rows[id] for id in ids] if rows.keys() == set(ids) else []

    def figure_names(self) -> Iterator[tuple[str, str]]:
        """Return the metric and the slice of every figure."""
        categories = self.generation.suite.categories
        with_checks = {prompt.category for prompt in self.generation.suite.prompts if prompt.checks}
        for metric in self.picture_metrics:
            slices = [name for name in categories if name in with_checks or not metric.startswith("vqa_")]
            yield from ((metric, part) for part in (ALL, *slices))
        for name in self.features:
            yield from ((f"{distance}_{name}", ALL) for distance in self.distances_of(name))

    def figures(self) -> Iterator[tuple[str, str, Figure]]:
        """Compute every figure, with its metric and slice, in the order of `figure_names`."""
        for metric, values in self.picture_values.items():
            measured = ~np.isnan(values)
            for part, members in self.slices.items():
                chosen = members & measured
                if chosen.any():
                    figure = bootstrap_mean(values[chosen], self.generation.seed, self.prompt_numbers[chosen])
                    yield metric, part, figure
        for metric, statistic, groups, resamples in self.distance_statistics():
            yield metric, ALL, bootstrap_statistic(statistic, groups, self.generation.seed, resamples)

    def distance_statistics(self) -> Iterator[tuple[str, Statistic, np.ndarray, int]]:
        """Yield the distances between generated and real pictures.

        Yields:
            The metric, its statistic, the group of each sample, and the number of resamples.
        """
        for name, scorer in self.features.items():
            real = load_vectors(self.lake, scorer, f"datasets/{self.dataset}", self.version)
            generated = unpack_vectors(self.rows[f"{name}_vector"])
            seed = self.generation.seed
            for distance, statistic, n, resamples in distances(real, generated, self.distances_of(name), seed):
                groups = np.arange(n) if distance in SHARES_OF_REAL else self.prompt_numbers
                yield f"{distance}_{name}", statistic, groups, resamples

    @cached_property
    def prompt_numbers(self) -> np.ndarray:
        """The number of each picture's prompt."""
        return np.array(self.rows["number"])

    @cached_property
    def slices(self) -> dict[str, np.ndarray]:
        """The mask of the pictures in each slice: first all pictures, then each category."""
        categories = np.array(self.rows["category"])
        masks = {ALL: np.ones(len(categories), bool)}
        return masks | {name: categories == name for name in self.generation.suite.categories}

    @cached_property
    def picture_values(self) -> dict[str, np.ndarray]:
        """The value of each picture in each metric of single pictures; nan if a picture has none."""
        return {metric: compute() for metric, compute in self.picture_metrics.items()}

    @property
    def picture_metrics(self) -> dict[str, Callable[[], np.ndarray]]:
        """The metrics of single pictures, each with the function that computes it."""
        metrics: dict[str, Callable[[], np.ndarray]] = {}
        if self.has_pixel_check:
            metrics["right"] = partial(self._right, sizes=False)
            metrics["right_sizes"] = partial(self._right, sizes=True)
        metrics |= {f"{name}_score": partial(self._scores, name) for name in self.scores}
        if self.settings.vqa:
            metrics |= {"vqa_score": self._vqa_score, "vqa_right": self._vqa_accuracy}
        if self.generation.n > 1:
            metrics |= {f"diversity_{name}": partial(self._diversity, name) for name in self.features}
        return metrics

    def _right(self, sizes: bool) -> np.ndarray:
        pairs = zip(self.rows["caption"], self.rows["shapes"], strict=True)
        return np.array([matches_prompt(caption, shapes, sizes) for caption, shapes in pairs], float)

    def _scores(self, name: str) -> np.ndarray:
        return np.array(self.rows[f"{name}_score"], float)

    def _vqa_score(self) -> np.ndarray:
        return np.array([vqa_score(probabilities) for probabilities in self.rows["vqa_probabilities"]])

    def _vqa_accuracy(self) -> np.ndarray:
        checks = [self.generation.suite.prompts[number].checks for number in self.prompt_numbers]
        pairs = zip(self.rows["vqa_answers"], checks, strict=True)
        return np.array([vqa_accuracy(answers, expected) for answers, expected in pairs])

    def _diversity(self, name: str) -> np.ndarray:
        return diversity(unpack_vectors(self.rows[f"{name}_vector"]), self.prompt_numbers)

    @cached_property
    def rows(self) -> dict[str, list[Any]]:
        """The pictures in the order of their prompts, with all scores, by column."""
        tables: dict[str, tuple[str, str]] = {}  # column → table, and the column's name there
        tables |= {f"{name}_score": (scorer.table, "score") for name, scorer in self.scores.items()}
        tables |= {f"{name}_vector": (scorer.table, "vector") for name, scorer in self.features.items()}
        if self.has_pixel_check:
            tables["shapes"] = (ShapesSeen().table, "shapes")
        if self.settings.vqa:
            tables |= {f"vqa_{column}": (self.settings.vqa.table, column) for column in ("answers", "probabilities")}
        return join_scores(self.picture_lake, tables)

    @cached_property
    def settings_json(self) -> str:
        """The settings that figures depend on, as JSON: the column `settings` of `evals`."""
        vqa = {"vqa": self.settings.vqa} if self.settings.vqa else {}
        scorer_ids = {name: scorer.id for name, scorer in {**self.scores, **self.features, **vqa}.items()}
        settings = {"n": self.generation.n, "sampling": self.generation.sampling, "scorers": scorer_ids}
        return json.dumps(settings, sort_keys=True)

    def figure_id(self, metric: str, part: str) -> str:
        """Return the id of a figure in `evals`: a digest of all that it is computed from."""
        text = json.dumps([self.generation.id, self.dataset, self.version, self.settings_json, metric, part])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def pictures(self, numbers: Iterable[int]) -> list[Image.Image]:
        """Return the first picture of each of these prompts."""
        return read_first_pictures(self.picture_lake, self.rows, numbers)

    def record(self, figures: Iterable[tuple[str, str, Figure]]) -> list[dict[str, Any]]:
        """Add the figures to `evals`, unless they are in it, and return their rows."""
        common = {
            "model": self.model,
            "digest": self.generation.digest,
            "dataset": self.dataset,
            "version": self.version,
            "suite": self.generation.suite.name,
            "suite_id": self.generation.suite.id,
            "asking": self.generation.id,
            "settings": self.settings_json,
            "seed": self.generation.seed,
            "code": json.dumps(code_version()),
            "made": datetime.now(UTC),
        }
        rows = []
        for metric, part, figure in figures:
            id = self.figure_id(metric, part)
            rows.append({"id": id, "metric": metric, "slice": part, **asdict(figure), **common})
        add_evals(self.lake, rows, {"model": self.model, "suite": self.generation.suite.name})
        return rows
