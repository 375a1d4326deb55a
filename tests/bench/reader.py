"""The reader beside `mosaicml-streaming` and `datasets` streaming: the same shuffled samples in batches, local disk.

Pictures of 64 px as JPEG, captions and embeddings of the built-in T5's width. All sides get the bytes their own way and
the same decoder, padding and loader, each in a process of its own; the clock runs from the first batch to the last.
mosaicml-streaming asks for older transformers and numpy than ours, but runs with these:
`pip install --no-deps mosaicml-streaming brotli catalogue cramjam python-snappy xxhash zstd`.
"""

import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from data.lake.lake import Lake
from data.lake.shard_file import write_file
from data.publish.publish import SAMPLE
from data.world.draw import draw
from data.world.grammar import caption_of
from data.world.scene import random_scene

SAMPLES, PICTURES, FILES, WIDTH, TURNS = 16_000, 500, 8, 128, 3
INSTALL = "not installed: pip install --no-deps mosaicml-streaming brotli catalogue cramjam python-snappy xxhash zstd"

READ = """
import sys, time
import cv2, numpy as np, torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

COLUMNS = ["image", "caption", "t5_embedding", "t5_length"]

def ours(folder):
    from data.lake.lake import Lake
    from data.reader.reader import Reader
    return Reader(Lake.open(f"{folder}/lake"), "shapes", columns=("image", "caption", "t5"))

def datasets(folder):
    from datasets import load_dataset
    files = {"train": f"{folder}/lake/datasets/shapes/*/*.parquet"}
    samples = load_dataset("parquet", data_files=files, columns=COLUMNS, split="train", streaming=True)
    return samples.shuffle(seed=0, buffer_size=1024)

def streaming(folder):
    from streaming import StreamingDataset
    return StreamingDataset(local=f"{folder}/mds", shuffle=True, batch_size=64)

def decoded(row):
    image = row["image"] if isinstance(row["image"], bytes) else row["image"]["bytes"]
    pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
    vectors = torch.frombuffer(bytearray(row["t5_embedding"]), dtype=torch.float16).view(row["t5_length"], -1)
    picture = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"image": picture, "caption": row["caption"], "t5": vectors}

def collate(rows):
    rows = [row if "t5" in row else decoded(row) for row in rows]
    pictures, vectors = torch.stack([row["image"] for row in rows]), [row["t5"] for row in rows]
    return pictures, [row["caption"] for row in rows], pad_sequence(vectors, batch_first=True)

if __name__ == "__main__":
    side, folder, workers = sys.argv[1:]
    torch.set_num_threads(1)
    loader = DataLoader(globals()[side](folder), batch_size=64, num_workers=int(workers), collate_fn=collate)
    count, began = 0, None
    for pictures, _, _ in loader:
        count += len(pictures)
        began = began or (time.perf_counter(), count)
    seconds = time.perf_counter() - began[0]
    print(count, (count - began[1]) / seconds)
"""


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    sides = ["ours", "datasets"]
    samples = draw_samples()
    publish(folder, samples)
    if importlib.util.find_spec("streaming"):
        sides.append("streaming")
        write_mds(folder, samples)
    (folder / "read.py").write_text(READ)
    missing = "" if "streaming" in sides else f"; mosaicml-streaming {INSTALL}"
    for workers, what in ((0, "one process"), (2, "two workers")):
        turns = [{side: speed(folder, side, workers) for side in sides} for _ in range(TURNS)]
        ratios = [turn["ours"] / max(turn[side] for side in sides[1:]) for turn in turns]
        note = "; ".join(f"{side} {'/'.join(f'{turn[side]:.0f}' for turn in turns)}" for side in sides)
        what = f"reader, {what}, against the better of two"
        yield what, statistics.median(ratios), 1.0, True, f"{note} samples/s{missing}"


def speed(folder: Path, side: str, workers: int) -> float:
    """Samples a second over an epoch, in a process of its own."""
    command = [sys.executable, str(folder / "read.py"), side, str(folder), str(workers)]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    count, figure = done.stdout.split()[-2:]
    assert int(count) == SAMPLES, f"{side} gave {count} of {SAMPLES} samples"
    return float(figure)


def draw_samples() -> pa.Table:
    """Pictures of the built-in world, each many times, with captions and embeddings of random numbers."""
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, 256, 256) for _ in range(PICTURES)]
    pictures = [small_jpeg(draw(scene, rng)) for scene in scenes]
    captions = [caption_of(scene, rng) for scene in scenes]
    lengths = rng.integers(8, 40, SAMPLES)
    ids = sorted(hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(SAMPLES))
    vectors = [rng.standard_normal((length, WIDTH), np.float32).astype(np.float16).tobytes() for length in lengths]
    table = {
        "id": ids,
        "url": [f"https://example.org/{id}.jpg" for id in ids],
        "caption": [captions[number % PICTURES] for number in range(SAMPLES)],
        "image": [{"bytes": pictures[number % PICTURES], "path": None} for number in range(SAMPLES)],
        "width": [64] * SAMPLES,
        "height": [64] * SAMPLES,
        "sha256": ids,
        "t5_embedding": vectors,
        "t5_length": lengths,
    }
    return pa.table(table).cast(pa.schema([*SAMPLE, ("t5_embedding", pa.binary()), ("t5_length", pa.int32())]))


def small_jpeg(pixels: np.ndarray) -> bytes:
    small = cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def publish(folder: Path, samples: pa.Table) -> None:
    lake = Lake.make(str(folder / "lake"), buckets=FILES)
    table = lake.table_or_make("datasets/shapes", samples.schema)
    note = json.dumps({"embeddings": {"t5": {"dtype": "float16", "dim": WIDTH}}})
    noted, each = samples.replace_schema_metadata({"imagen": note}), SAMPLES // FILES
    table.append([write_file(table.url, bucket, noted.slice(bucket * each, each)) for bucket in range(FILES)])


def write_mds(folder: Path, samples: pa.Table) -> None:
    from streaming import MDSWriter

    kinds = {"image": "bytes", "caption": "str", "t5_embedding": "bytes", "t5_length": "int"}
    with MDSWriter(out=str(folder / "mds"), columns=kinds) as writer:
        for row in samples.select(list(kinds)).to_pylist():
            writer.write({**row, "image": row["image"]["bytes"]})
