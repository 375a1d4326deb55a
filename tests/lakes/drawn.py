"""A published dataset of drawn scenes with embeddings of the built-in T5, made without a build."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from data.encoders.encoder import encode, encoder_of, load
from data.encoders.settings import EncoderSettings
from data.lake.lake import Lake, LakeConfig
from data.lake.schemas import IMAGES, PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.publish.publish import SAMPLE
from data.world.draw import draw
from data.world.grammar import caption_of, plain_caption
from data.world.scene import random_scene
from tests.lakes.empty import NOW

T5 = EncoderSettings(encoder="t5", model="built-in")
SIDE = 32
KINDS = {"embedding": pa.binary(), "length": pa.int32()}


def make_drawn_lake(folder: Path, count: int, seed: int = 0, side: int = SIDE, recaptioned: bool = False) -> Lake:
    """Make a lake with `drawn@1`. If `recaptioned`, it has the embeddings `t5_new` of other captions, too."""
    lake = Lake(str(folder / "lake"), LakeConfig(buckets=2, made=NOW))
    lake.save()
    rows = drawn_rows(count, seed, side, recaptioned)
    table = lake.table_or_make("datasets/drawn", rows.schema)
    buckets = np.array([bucket_of(id, 2) for id in rows["id"].to_pylist()])
    files = [
        write_file(table.url, bucket, rows.take(np.flatnonzero(buckets == bucket)).sort_by("id")) for bucket in (0, 1)
    ]
    texts = ["t5", "t5_new"] if recaptioned else ["t5"]
    recipe = {"name": "drawn", "embed": {name: T5.model_dump(mode="json") for name in texts}}
    record = {"recipe": recipe, "embeddings": {name: f"embeddings/{encoder_of(T5).id}" for name in texts}}
    record["kept"] = count
    assert table.replace(files, [], record)
    pairs = lake.table_or_make("pairs", PAIRS)
    pair_rows = pa.Table.from_pylist(rows.select(["id", "url", "caption"]).to_pylist(), PAIRS)
    pairs.append(
        [write_file(pairs.url, bucket, pair_rows.take(np.flatnonzero(buckets == bucket))) for bucket in (0, 1)]
    )
    return lake


def add_images(lake: Lake) -> Lake:
    """Add the images that `drawn@1` was published from to the table `images`."""
    rows = lake.table("datasets/drawn").dataset().to_table(columns=["id", "image", "width", "height"]).to_pylist()
    images = lake.table_or_make("images", IMAGES)
    image_rows = [row | {"image": row["image"]["bytes"], "format": "png"} for row in rows]
    for bucket in lake.buckets:
        own = [row for row in image_rows if bucket_of(row["id"], len(lake.buckets)) == bucket]
        images.append([write_file(images.url, bucket, pa.Table.from_pylist(own, IMAGES))])
    return lake


def drawn_rows(count: int, seed: int, side: int, recaptioned: bool = False) -> pa.Table:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, 128, 128) for _ in range(count)]
    captions = [caption_of(scene, rng) for scene in scenes]
    urls = [f"http://drawn.test/{number}.png" for number in range(count)]
    ids = [pair_id(url, caption) for url, caption in zip(urls, captions, strict=True)]
    encoded = encode(load(T5), captions, T5)
    dim = len(encoded["embedding"][0]) // 2 // encoded["length"][0]
    table = {
        "id": ids,
        "url": urls,
        "caption": captions,
        "image": [{"bytes": _png(Image.fromarray(draw(scene, rng)), side), "path": None} for scene in scenes],
        "width": [side] * count,
        "height": [side] * count,
        "sha256": ids,
        "t5_embedding": encoded["embedding"],
        "t5_length": encoded["length"],
    }
    texts = ["t5"]
    if recaptioned:
        recaptions = encode(load(T5), [plain_caption(scene) for scene in scenes], T5)
        table |= {f"t5_new_{column}": recaptions[column] for column in ("embedding", "length")}
        texts.append("t5_new")
    columns = [(f"{name}_{column}", kind) for name in texts for column, kind in KINDS.items()]
    schema = pa.schema([*SAMPLE, *columns])
    note = {"imagen": json.dumps({"embeddings": {name: {"dtype": "float16", "dim": dim} for name in texts}})}
    return pa.table(table).cast(schema).replace_schema_metadata(note)


def _png(image: Image.Image, side: int) -> bytes:
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()
