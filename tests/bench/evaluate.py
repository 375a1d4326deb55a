"""What an evaluation costs beside its models: the time that is neither sampling nor looking, and how fast it looks.

The first is an evaluation of the suite `shapes` as `imagen evaluate` makes it, of `tiny` with its own steps, beside a
version of 512 pictures, in one process of one thread. Inside is whenever pictures are made, decoded and prepared, or a
scorer looks at them; reading models, CLIP's look at prompts, plans, commits, distances and intervals are outside. The
second, CLIP's vectors of the pictures of a table, beside the loop that anybody would write, in seconds of the processor
and on one core: the stage decodes in threads of its own, which would be a head start on two.
"""

import io
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import torch
from PIL import Image

from data.engine.stage import make_plan
from data.lake.lake import Lake
from data.scorers import stages
from data.scorers.clip import ClipScore, ClipVectors
from data.scorers.scorer import pack_vectors
from data.scorers.stages import ScorePictures
from imagen.config.evaluation import EvaluateSettings
from imagen.config.stage import TrainSettings
from imagen.config.training import TrainConfig
from imagen.evaluate.evaluation import evaluate, plan_evaluation
from imagen.metrics.shapes import ShapesSeen
from imagen.models.model import Imagen
from imagen.train.setup import plan_training
from imagen.train.train import train
from tests.engines import InProcessEngine
from tests.lakes.drawn import add_images, make_drawn_lake

PUBLISHED, PICTURES, SIDE, TURNS = 512, 2048, 64, 7
CLIP = ClipScore(model="built-in")
Spans = list[tuple[float, float]]


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    torch.set_num_threads(1)
    yield outside(add_images(make_drawn_lake(folder / "evaluated", PUBLISHED, side=SIDE)))
    yield looking(add_images(make_drawn_lake(folder / "looked", PICTURES, side=SIDE)))


def outside(lake: Lake) -> tuple[str, float, float, bool, str]:
    settings = TrainSettings(steps=4, batch=4, warmup=0, grid_every=None)
    train(plan_training(lake, TrainConfig(name="tiny", preset="tiny", train=settings), "drawn"), cpu=True)
    evaluation = plan_evaluation(lake, "tiny/1", EvaluateSettings(clip={"clip": CLIP}))
    inside: Spans = []
    with (
        timed(Imagen, "generate_images", inside),
        timed(stages, "_look", inside),
        timed(ClipVectors, "score_batch", inside),
        timed(ShapesSeen, "score_batch", inside),
    ):
        began = time.perf_counter()
        evaluate(evaluation, InProcessEngine())
        total = time.perf_counter() - began
    within = together(inside)
    note = f"{total - within:.1f} of {total:.1f} s, {len(evaluation.generation.suite.prompts)} prompts"
    return "evaluation, share of time beside sampling and looking", 1 - within / total, 0.10, False, note


def looking(lake: Lake) -> tuple[str, float, float, bool, str]:
    look = ScorePictures(lake, CLIP.inputs())
    shards = make_plan(lake, look, PICTURES).shards
    files = lake.table("images").dataset().files
    filesystem = lake.table("images").dataset().filesystem

    def ours() -> None:
        for shard in shards:
            look.work(shard)

    def loop() -> None:
        """A table's batches, pictures decoded and prepared, a batch through the model: no more."""
        model = CLIP.load()
        waiting: list[Any] = []
        vectors: list[bytes] = []
        for part in ds.dataset(files, filesystem=filesystem).to_batches(columns=["id", "image"], batch_size=256):
            for picture in part["image"]:
                waiting.append(model.transform(Image.open(io.BytesIO(picture.as_py())).convert("RGB")))
                if len(waiting) == CLIP.batch_size:
                    vectors += pack_vectors(model.encode_pictures(waiting, CLIP.batch_size))
                    waiting = []
        if waiting:
            vectors += pack_vectors(model.encode_pictures(waiting, CLIP.batch_size))
        assert len(vectors) == PICTURES

    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        ours()
        loop()
        times = [(seconds(ours), seconds(loop)) for _ in range(TURNS)]
    finally:
        os.sched_setaffinity(0, cores)
    speeds = " beside ".join(f"{PICTURES / statistics.median(side):.0f}" for side in zip(*times, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in times)
    return "features per second against a plain loop", ratio, 0.9, True, f"{speeds} pictures/s, the built-in CLIP"


@contextmanager
def timed(owner: Any, name: str, spans: Spans) -> Iterator[None]:
    """Notes when a function ran, in whatever thread."""
    function = getattr(owner, name)

    def measured(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spans.append((began, time.perf_counter()))

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, function)


def together(spans: Spans) -> float:
    """How long at least one of them ran."""
    total = end = 0.0
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return total


def seconds(work: Callable[[], None]) -> float:
    """Of the processor, whatever else it has to do."""
    began = time.process_time()
    work()
    return time.process_time() - began
