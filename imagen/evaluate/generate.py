"""What is asked of a model, and its answer: a small lake of its own, whose pairs are prompts and whose images it makes.

So the pictures of an evaluation are pending until they are there, as downloads are, and whatever the data way can say
of a picture and its caption it can say of them, by the same scorers. A shard is a batch: it is made whole or not at
all, and cut at the same places whoever was killed before, for a picture may differ by a level of 255 in other company.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from PIL import Image

from data.engine.stage import Shard, ShardResult
from data.lake import storage
from data.lake.lake import Lake, LakeConfig
from data.lake.schemas import IMAGES, PAIRS, pair_id
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.lake.table import Table
from data.scorers.clip import resolve_device
from imagen.metrics.suites import Suite

if TYPE_CHECKING:
    from imagen.models.model import Imagen

FOLDER = "evaluations"
BATCH = 16  # pictures of a shard
SEEDS = 2**56


@dataclass(frozen=True)
class Asking:
    """All prompts of a suite, `n` pictures of each, of one model."""

    model: str  # the URL of its folder
    digest: str
    suite: Suite
    n: int
    seed: int
    sampling: dict[str, Any]

    @property
    def id(self) -> str:
        said = json.dumps([self.digest, self.suite.id, self.n, self.seed, self.sampling], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:24]

    def lake(self, within: Lake) -> Lake:
        """Where its tables lie; of one bucket, so that every batch but the last is full."""
        config = LakeConfig(buckets=1, made=within.config.made)
        return Lake(storage.join(within.url, FOLDER, self.id), config)

    def ask(self, lake: Lake) -> None:
        """The prompts become pairs. Their seeds are the same for every model, so that two can be compared pairwise."""
        table = lake.table_or_make("pairs", PAIRS)
        if table.count_rows():
            return
        rows: list[dict[str, Any]] = []
        for number, prompt in enumerate(self.suite.prompts):
            for again in range(self.n):
                url = f"made:{self.suite.name}/{number}/{again}"
                asked = {"number": number, "again": again, "seed": seed_of(self.seed, number, again)}
                rows.append(
                    {
                        "id": pair_id(url, prompt.text),
                        "url": url,
                        "caption": prompt.text,
                        "source": self.suite.name,
                        "extra": json.dumps({**asked, "category": prompt.category}),
                    }
                )
        table.append([write_file(table.url, 0, pa.Table.from_pylist(rows, PAIRS))])


@dataclass(frozen=True)
class Make:
    """The stage: `pairs` → `images`."""

    lake: Lake
    model: str
    sampling: dict[str, Any]
    name: str = "make"
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        return [lake.table_or_make("images", IMAGES)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        return query(
            "SELECT id, caption, extra FROM pairs ANTI JOIN images USING (id) ORDER BY id",
            pairs=lake.table("pairs").dataset(bucket),
            images=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        prompts = shard.rows["caption"].to_pylist()
        seeds = [json.loads(extra)["seed"] for extra in shard.rows["extra"].to_pylist()]
        model = _loaded(self.model)
        made = model.generate_images(prompts, seed=seeds, batch=len(prompts), **self.sampling)
        rows = [image_row(id, picture) for id, picture in zip(shard.rows["id"].to_pylist(), made, strict=True)]
        file = write_file(self.lake.table_url("images"), shard.bucket, pa.Table.from_pylist(rows, IMAGES))
        return ShardResult(len(rows), {"images": file})


def seed_of(seed: int, number: int, again: int) -> int:
    digest = hashlib.sha256(repr((seed, number, again)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS


@lru_cache(maxsize=1)
def _loaded(url: str) -> "Imagen":
    import torch

    from imagen.models.model import Imagen

    return Imagen.from_pretrained(url, device=torch.device(resolve_device("auto")))


def image_row(id: str, picture: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    content = buffer.getvalue()
    size = {"width": picture.width, "height": picture.height}
    was = {"original_width": picture.width, "original_height": picture.height, "original_bytes": len(content)}
    return {"id": id, "image": content, "format": "png", **size, **was, "sha256": hashlib.sha256(content).hexdigest()}
