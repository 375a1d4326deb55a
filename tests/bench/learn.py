"""What `tiny` has learnt after 30 minutes on a world: right by the pixels, for prompts that were never a caption.

The shape and its colour are looked for; the same prompts are given to the cascade before its first step. What is timed
is training alone. LEARN_MINUTES changes how long, LEARN_PAIRS how large the world is. The model stays in `learn/`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data.build.build import build
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.lake.lake import Lake
from data.pictures.contact_sheet import draw_contact_sheet
from data.world.make import HOST, make_world
from data.world.prompts import measure_alignment, unseen_prompts
from data.world.server import start_process
from flows.verbs.demo_run import tiny_for
from imagen.models.assemble import assemble_pipeline
from imagen.models.model import Imagen
from imagen.train.setup import Training, plan_training
from imagen.train.start import start_run
from imagen.train.train import train

MINUTES, PAIRS = float(os.environ.get("LEARN_MINUTES", "30")), int(os.environ.get("LEARN_PAIRS", "10000"))
PROMPTS, SEED = 200, 41


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    lake = published(folder)
    captions = set(lake.table("pairs").dataset().to_table(columns=["caption"])["caption"].to_pylist())
    training = plan_training(lake, tiny_for(MINUTES), "shapes")
    prompts = unseen_prompts(captions, PROMPTS, SEED)
    before = measure_alignment(untrained(training).generate_images(prompts), prompts)
    yield "untrained: right shape and colour", before.share, 0.05, False, f"{PROMPTS} prompts"
    ended = train(training)
    assert ended.trained is not None
    model = Imagen.from_pretrained(ended.trained.reference, lake.url)
    pictures = model.generate_images(prompts)
    after = measure_alignment(pictures, prompts)
    out = Path("learn")
    model.save_pretrained(out)
    draw_contact_sheet(pictures[:32], prompts[:32], 8).save(out / "sheet.png")
    samples = lake.table("datasets/shapes").count_rows()
    steps = " and ".join(f"{came['steps']:,.0f}" for came in ended.stages.values())
    note = f"and size {after.sized / PROMPTS:.2f}; {MINUTES:g} minutes, {steps} steps, {samples:,} samples; see {out}"
    yield f"trained for {MINUTES:g} minutes: right shape and colour", after.share, 0.60, True, note
    two = unseen_prompts(captions, PROMPTS, SEED, shapes=2)
    both = measure_alignment(model.generate_images(two), two)
    yield "two shapes and their relation", both.share, 0.0, True, f"and sizes {both.sized / PROMPTS:.2f}"


def published(folder: Path) -> Lake:
    """`shapes@1` of a world, built as everybody builds it."""
    make_world(folder / "world", PAIRS, SEED)
    with start_process(folder / "world") as origin, LocalEngine() as engine:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        build(lake, load_recipe("shapes", (str(folder / "world/pairs.parquet"),), ("shard_rows=1000",)), engine)
    return lake


def untrained(training: Training) -> Imagen:
    unets = [start_run(training, stage, cpu=True).unet.eval() for stage in range(len(training.cascade.stages))]
    return assemble_pipeline(training.cascade, training.config.sampling, training.text, unets)
