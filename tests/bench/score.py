"""Looking and scoring beside the bare model's forward pass on preloaded tensors, in one process, in turn.

With ViT-B/32 (its real size; weights are random, which changes no time), and with the built-in model for the record.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.engine.stage import make_plan, run_stage
from data.lake.lake import Lake
from data.scorers.clip import ClipScore
from data.scorers.stages import ScorePictures, ScoreVectors
from data.world.make import HOST, make_world
from data.world.server import start_process

PICTURES, TURNS = 192, 3


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    lake = filled(folder)
    for name, bound, clip in (
        ("ViT-B/32", 0.9, of_real_size(folder)),
        ("the built-in model", 0.0, ClipScore(model="built-in")),
    ):
        ratios = [bare / ours for bare, ours in compared(lake, clip)]
        yield f"look and score against the bare forward pass, {name}", statistics.median(ratios), bound, True, ""


def of_real_size(folder: Path) -> ClipScore:
    weights = folder / "b32.safetensors"
    model = open_clip.create_model("ViT-B-32")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return ClipScore(model="ViT-B-32", pretrained=str(weights), batch_size=32)


def compared(lake: Lake, clip: ClipScore) -> list[tuple[float, float]]:
    """Seconds of the bare model and of the two stages, in turn, on as many pictures."""
    look, judge = ScorePictures(lake, clip.inputs()), ScoreVectors(lake, clip, "score")
    look_shard = make_plan(lake, look, PICTURES).shards[0]
    run_stage(lake, look, LocalEngine(1), PICTURES)
    judge_shard = make_plan(lake, judge, PICTURES).shards[0]
    model = clip.load()
    pixels = model.model.visual.image_size
    side = pixels[0] if isinstance(pixels, tuple | list) else pixels
    tensors = list(torch.randn(clip.batch_size, 3, side, side))
    texts = ["a red circle"] * clip.batch_size

    def bare() -> None:
        for _ in range(-(-look_shard.rows.num_rows // clip.batch_size)):
            model.encode_pictures(tensors, clip.batch_size)
            model.encode_texts(texts)

    def ours() -> None:
        look.work(look_shard)
        judge.work(judge_shard)

    ours()
    bare()
    return [(seconds(bare), seconds(ours)) for _ in range(TURNS)]


def filled(folder: Path) -> Lake:
    """A lake of one bucket with pictures in it."""
    make_world(folder / "world", 2 * PICTURES, 6)
    with start_process(folder / "world") as origin, LocalEngine() as engine:
        lake = Lake.make(str(folder / "lake"), buckets=1, hosts={HOST: origin.address})
        pipeline = make_pipeline(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),)))
        pipeline.ingest()
        run_stage(lake, pipeline.stages[0], engine, 100)
    return lake


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
