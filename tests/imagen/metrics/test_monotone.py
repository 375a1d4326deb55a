"""Every metric says worse, step by step, of what is worse: blurred, noisy, all alike, beside another's prompt.

The pictures are those of an excellent model, and levels so far apart that no luck is in it. Where a metric can not be
expected to follow a corruption, NOT says why.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from data.scorers.clip import ClipScore
from data.scorers.heads import Aesthetic
from data.scorers.scorer import PictureVectors, unpack_vectors
from imagen.errors import TooFewSamples
from imagen.metrics.distances import DISTANCES, distances
from imagen.metrics.diversity import diversity
from imagen.metrics.extractors import Dinov2, Inception
from imagen.metrics.shapes import ShapesSeen, matches_prompt
from tests.imagen.metrics.pictures import draw_pictures

pytestmark = pytest.mark.slow

SIDE, REAL, MADE, OF_A_PROMPT = 64, 400, 80, 8
FEW_REAL, FEW_MADE, INCEPTION = 40, 20, 192  # Inception looks at few, and on fewer pixels: it takes long
LEVELS: dict[str, tuple[float, ...]] = {
    "blur": (0, 4, 8, 14),  # pixels of 64, of its standard deviation
    "noise": (0, 30, 60, 110),  # levels of 255
    "copies": (0, 0.3, 0.6, 0.9),  # share of the pictures that are the first one again
    "swapped": (0, 0.33, 0.67, 1),  # share of the prompts that are another picture's
}
OTHERS: dict[str, dict[str, tuple[float, ...]]] = {
    "inception": {"blur": (0, 4, 14), "noise": (0, 30, 110)},
    "dinov2": {"blur": (0, 8, 11, 15), "noise": (0, 100, 150, 250)},  # of 28 pixels a side: sees no finer things
}
CLIP = ClipScore(model="built-in")
EXTRACTORS = ("clip", "inception", "dinov2")
FALLING = ("fd", "kid", "cmmd")  # the less the better

ALONE = "a picture is no less like real ones for being there twice"
WIDE = "the further made pictures are from each other, the further each reaches (arXiv 2002.09797, section 2)"
MIDDLE = "little models see what is blurred in the middle of all, where the neighbourhoods of real pictures overlap"
APART = "says how different pictures of a prompt are, not how good: what is spoilt may differ more"
NOT = {
    ("precision", "copies"): ALONE,
    ("density", "copies"): ALONE,
    ("recall", "copies"): WIDE,
    ("recall_inception", "blur"): WIDE,
    ("recall_inception", "noise"): WIDE,
    ("recall_dinov2", "noise"): WIDE,
    **{(f"{metric}_{name}", "blur"): MIDDLE for metric in ("precision", "density") for name in ("clip", "dinov2")},
    ("diversity_inception", "blur"): APART,
    ("diversity_inception", "noise"): APART,
}


def cases() -> Iterator[tuple[str, str]]:
    for metric in ("right", "right_sizes", "clip_score"):
        yield from ((metric, corruption) for corruption in ("blur", "noise", "swapped"))
    yield from (("aesthetic_score", corruption) for corruption in ("blur", "noise"))
    for extractor in EXTRACTORS:
        for metric in ("diversity", *distances_of(extractor)):
            for corruption in ("blur", "noise", "copies"):
                if not {(metric, corruption), (f"{metric}_{extractor}", corruption)} & NOT.keys():
                    yield f"{metric}_{extractor}", corruption


def distances_of(extractor: str) -> list[Any]:
    """CMMD is of CLIP's vectors alone; of 2,048 features a Fréchet distance needs thousands of real pictures."""
    return [
        name
        for name in DISTANCES
        if (name, extractor) != ("fd", "inception") and (name != "cmmd" or extractor == "clip")
    ]


class Worse:
    """Real pictures, and what the metrics say of others, however they are spoilt. Nothing is looked at twice."""

    def __init__(self, extractors: dict[str, PictureVectors], head: Aesthetic) -> None:
        self.extractors, self.head = extractors, head
        self.real, _ = draw_pictures(REAL, SIDE, 1)
        self.made, self.captions = draw_pictures(MADE, SIDE, 2)
        self.cache: dict[Any, Any] = {}

    def series(self, metric: str, corruption: str) -> list[float]:
        levels = OTHERS.get(metric.split("_")[-1], {}).get(corruption, LEVELS[corruption])
        return [self.value(metric, corruption, level) for level in levels]

    def value(self, metric: str, corruption: str, level: float) -> float:
        if metric in ("right", "right_sizes"):
            pairs = zip(self.prompts(corruption, level), self.shapes(corruption, level), strict=True)
            return float(np.mean([matches_prompt(prompt, seen, metric == "right_sizes") for prompt, seen in pairs]))
        if metric in ("clip_score", "aesthetic_score"):
            scorer = CLIP if metric == "clip_score" else self.head
            seen = [self.vectors("clip", corruption, level)]
            return float(np.mean(scorer.judge(seen, self.prompts(corruption, level))["score"]))
        name, _, extractor = metric.partition("_")
        made = self.vectors(extractor, corruption, level)
        if name == "diversity":
            return float(diversity(made, np.arange(len(made)) // OF_A_PROMPT).mean())
        return self.once(("all of", extractor, corruption, level), lambda: self.distances(extractor, made))[name]

    def distances(self, extractor: str, made: np.ndarray) -> dict[str, float]:
        few = self.real[:FEW_REAL] if extractor == "inception" else self.real
        real = self.once((extractor, "real"), lambda: vectors_of(self.extractors[extractor], few))
        statistics = distances(real, made, distances_of(extractor))
        return {name: float(of(np.ones((1, n)))[0]) for name, of, n, _ in statistics}

    def prompts(self, corruption: str, level: float) -> list[str]:
        """Those that are swapped go around."""
        many = max(1, round(level * MADE)) if corruption == "swapped" else 1
        return [*self.captions[1:many], self.captions[0], *self.captions[many:]]

    def shapes(self, corruption: str, level: float) -> list[str]:
        spoilt = how(corruption, level)
        return self.once(
            ("shapes", *spoilt), lambda: [ShapesSeen().look(picture)["shapes"] for picture in self.spoilt(*spoilt)]
        )

    def vectors(self, extractor: str, corruption: str, level: float) -> np.ndarray:
        many = FEW_MADE if extractor == "inception" else MADE
        spoilt = how(corruption, level)
        made = self.once(
            (extractor, *spoilt), lambda: vectors_of(self.extractors[extractor], self.spoilt(*spoilt)[:many])
        )
        copies = round(level * many) if corruption == "copies" else 0
        return np.concatenate([made[:1].repeat(copies, 0), made[copies:]])

    def spoilt(self, corruption: str, level: float) -> list[Image.Image]:
        return [spoilt(picture, corruption, level, seed) for seed, picture in enumerate(self.made)]

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


def how(corruption: str, level: float) -> tuple[str, float]:
    """What is done to the pixels."""
    return (corruption, level) if corruption in ("blur", "noise") and level else ("nothing", 0)


def spoilt(picture: Image.Image, corruption: str, level: float, seed: int) -> Image.Image:
    if corruption == "blur":
        return picture.filter(ImageFilter.GaussianBlur(level))
    noise = np.random.default_rng(seed).normal(0, level, (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def vectors_of(extractor: PictureVectors, pictures: list[Image.Image]) -> np.ndarray:
    inputs, size = [extractor.look(picture) for picture in pictures], extractor.batch_size
    batches = [inputs[at : at + size] for at in range(0, len(inputs), size)]
    return unpack_vectors([vector for batch in batches for vector in extractor.score_batch(batch)["vector"]])


def head_of(folder: Path) -> Aesthetic:
    """A head with a reason to fall: least squares from CLIP's vectors to how little other pictures are spoilt."""
    pictures, vectors, marks = draw_pictures(MADE, SIDE, 3)[0], [], []
    for corruption in ("blur", "noise"):
        for step, level in enumerate(LEVELS[corruption]):
            some = [spoilt(picture, *how(corruption, level), seed) for seed, picture in enumerate(pictures, MADE)]
            vectors.append(vectors_of(CLIP.vectors(), some))
            marks += [10.0 - step] * len(pictures)
    x = np.pad(np.concatenate(vectors).astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
    solved = torch.from_numpy(np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ marks)).float()
    save_file(
        {"layer.weight": solved[None, :-1].contiguous(), "layer.bias": solved[-1:].clone()}, folder / "head.safetensors"
    )
    return Aesthetic(model="built-in", weights=str(folder / "head.safetensors"))


@pytest.fixture(scope="module")
def worse(inception: Path, dinov2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worse]:
    extractors = {
        "clip": CLIP.vectors(),
        "inception": Inception(weights=str(inception), side=SIDE, batch_size=8),
        "dinov2": Dinov2(model=str(dinov2), side=SIDE),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagen.metrics.extractors.INCEPTION_SIDE", INCEPTION)
        yield Worse(extractors, head_of(tmp_path_factory.mktemp("head")))


@pytest.mark.parametrize(("metric", "corruption"), cases())
def test_a_metric_gets_worse_with_each_step_of_a_corruption(metric: str, corruption: str, worse: Worse) -> None:
    series = worse.series(metric, corruption)
    down = series[::-1] if metric.startswith(FALLING) else series
    assert down == sorted(down, reverse=True), series
    assert down[0] > down[-1]


def test_a_frechet_distance_of_inceptions_features_wants_more_pictures(worse: Worse) -> None:
    with pytest.raises(TooFewSamples, match="distance of 2048 features needs more than 2048 real pictures"):
        list(distances(np.ones((FEW_REAL, 2048)), worse.vectors("inception", "blur", 0), ["fd"]))
