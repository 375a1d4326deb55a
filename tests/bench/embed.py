"""The embed stage beside the loop that text-to-image trainers carry, with a T5 of t5-v1_1-small's size, in turn.

The loop tokenizes batches as the rows come and pads each to 77 tokens; for the record also to 256, and to the longest
of the batch. The stage plans, encodes and commits. Weights are random, which changes no time. A third of the words have
a comma, a token of its own here, so that a word takes 1.3 tokens as with T5's own tokenizer.
"""

import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from data.encoders.embed import Embed
from data.encoders.encoder import encoder_of
from data.encoders.settings import BUILT_IN, EncoderSettings
from data.engine.stage import run_stage
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, VERDICTS, pair_id
from data.lake.shard_file import write_file
from tests.engines import InProcessEngine

ROWS, AGAIN, TURNS, BATCH = 1000, 0.2, 3, 32
WORDS = ["a", "large", "small", "red", "blue", "circle", "square", "above", "to", "the", "left", "of"]
PADDED: dict[str, tuple[dict[str, Any], int, float]] = {  # the padding, of how many rows one is enough, the bound
    "to 77 tokens": ({"padding": "max_length", "max_length": 77}, 4, 2.0),
    "to 256 tokens": ({"padding": "max_length", "max_length": 256}, 20, 2.0),
    "to its longest": ({"padding": True, "max_length": 77}, 4, 0.0),
}


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    torch.set_num_threads(1)  # as a worker has where there are as many as cores
    captions = natural_captions()
    model = make_t5(folder / "t5")
    lake = filled(folder, captions)
    tokenizer = AutoTokenizer.from_pretrained(folder / "t5")
    stage = Embed(lake, "bench", encoder_of(EncoderSettings(encoder="t5", model=str(folder / "t5"))), "embed")

    def ours(turn: int) -> None:
        assert run_stage(lake, stage, InProcessEngine(), ROWS) == len(set(captions))
        shutil.rmtree(lake.table_url(stage.table))

    def loop(padding: dict[str, Any], share: int) -> Callable[[int], None]:
        def run(turn: int) -> None:
            some = captions[turn * ROWS // share :][: ROWS // share]
            with torch.inference_mode():
                for at in range(0, len(some), BATCH):
                    batch = tokenizer(some[at : at + BATCH], truncation=True, return_tensors="pt", **padding)
                    model(**batch).last_hidden_state.half()

        return run

    ours(0)
    ratios: dict[str, list[float]] = {name: [] for name in PADDED}
    speeds = []
    for turn in range(TURNS):
        mine = seconds(ours, turn)
        speeds.append(ROWS / mine)
        for name, (padding, share, _) in PADDED.items():
            ratios[name].append(seconds(loop(padding, share), turn) * share / mine)
    note = f"{statistics.median(speeds):.0f} captions/s"
    for name, (_, _, bound) in PADDED.items():
        yield f"embed stage against a loop, batches padded {name}", statistics.median(ratios[name]), bound, True, note


def natural_captions() -> list[str]:
    """3 to 60 words, log-normal about 11; a fifth of the rows carry a caption that another row carries."""
    rng, chance = np.random.default_rng(0), random.Random(0)
    sizes = np.clip(np.exp(rng.normal(2.4, 0.6, ROWS)), 3, 60).astype(int)
    captions = [
        " ".join(chance.choice(WORDS) + ("," if chance.random() < 0.3 else "") for _ in range(size)) for size in sizes
    ]
    own = ROWS - int(ROWS * AGAIN)
    captions = captions[:own] + chance.choices(captions[:own], k=ROWS - own)
    chance.shuffle(captions)
    return captions


def make_t5(folder: Path) -> Any:
    """A T5 of the size of t5-v1_1-small, and the built-in tokenizer."""
    config = T5Config(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6, feed_forward_proj="gated-gelu")
    torch.manual_seed(0)
    model = T5EncoderModel(config).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUILT_IN / name, folder)
    return model


def filled(folder: Path, captions: list[str]) -> Lake:
    """A lake of one bucket whose pairs are all kept."""
    lake, now = Lake.make(str(folder / "lake"), buckets=1), datetime.now(UTC)
    judged = {"source": "bench", "first_seen": now, "kept": True, "reasons": []}
    pairs = [{"url": f"http://a.test/{n}", "caption": caption} for n, caption in enumerate(captions)]
    for name, schema in (("pairs", PAIRS), ("verdicts/bench", VERDICTS)):
        table = lake.table_or_make(name, schema)
        filled = [{"id": pair_id(row["url"], row["caption"])} | row | judged for row in pairs]
        table.append([write_file(table.url, 0, pa.Table.from_pylist(filled, schema))])
    return lake


def seconds(work: Callable[[int], None], turn: int) -> float:
    began = time.perf_counter()
    work(turn)
    return time.perf_counter() - began
