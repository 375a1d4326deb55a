"""The pictures of an evaluation, in a separate small lake: its pairs are prompts, and the model makes its images.

So pictures are pending until they exist, as downloads are, and the scorers of a dataset can score them. A shard is a
batch: it is generated as a whole or not at all. Batches are always cut at the same places, also after a kill, because
a picture can differ by one level of 255 in another batch.
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
SEED_LIMIT = 2**56


@dataclass(frozen=True)
class Generation:
    """The pictures of a suite: `n` for each prompt, by one model, with one seed and one set of sampling settings."""

    model: str  # the URL of its folder
    digest: str
    suite: Suite
    n: int
    seed: int
    sampling: dict[str, Any]

    @property
    def id(self) -> str:
        """A digest of everything that the pictures depend on. Equal weights in another folder give the same digest."""
        text = json.dumps([self.digest, self.suite.id, self.n, self.seed, self.sampling], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def open_lake(self, parent: Lake) -> Lake:
        """Open the pictures' lake, inside the model's lake.

        It has one bucket, so that all batches but the last are full.
        """
        config = LakeConfig(buckets=1, made=parent.config.made)
        return Lake(storage.join(parent.url, FOLDER, self.id), config)

    def add_prompts(self, lake: Lake) -> None:
        """Add each prompt as `n` pairs; does nothing if the lake has pairs.

        A picture's seed does not depend on the model, so that models can be compared picture by picture.
        """
        table = lake.table_or_make("pairs", PAIRS)
        if table.count_rows():
            return
        rows: list[dict[str, Any]] = []
        for number, prompt in enumerate(self.suite.prompts):
            for repeat in range(self.n):
                url = f"made:{self.suite.name}/{number}/{repeat}"
                seed = picture_seed(self.seed, number, repeat)
                extra = {"number": number, "again": repeat, "seed": seed, "category": prompt.category}
                rows.append(
                    {
                        "id": pair_id(url, prompt.text),
                        "url": url,
                        "caption": prompt.text,
                        "source": self.suite.name,
                        "extra": json.dumps(extra),
                    }
                )
        table.append([write_file(table.url, 0, pa.Table.from_pylist(rows, PAIRS))])


@dataclass(frozen=True)
class GeneratePictures:
    """The stage that generates pictures: `pairs` → `images`."""

    lake: Lake
    model: str
    sampling: dict[str, Any]
    name: str = "make"
    ordered_commits: bool = False

    def outputs(self, lake: Lake) -> list[Table]:
        """Return the table `images`."""
        return [lake.table_or_make("images", IMAGES)]

    def pending(self, lake: Lake, outputs: list[Table], bucket: int) -> pa.Table:
        """Return the pairs of a bucket that have no picture, in the order of their ids."""
        return query(
            "SELECT id, caption, extra FROM pairs ANTI JOIN images USING (id) ORDER BY id",
            pairs=lake.table("pairs").dataset(bucket),
            images=outputs[0].dataset(bucket),
        )

    def work(self, shard: Shard) -> ShardResult:
        """Generate the pictures of a shard as one batch, and write them to a file."""
        prompts = shard.rows["caption"].to_pylist()
        seeds = [json.loads(extra)["seed"] for extra in shard.rows["extra"].to_pylist()]
        model = _load_model(self.model)
        pictures = model.generate_images(prompts, seed=seeds, batch=len(prompts), **self.sampling)
        rows = [image_row(id, picture) for id, picture in zip(shard.rows["id"].to_pylist(), pictures, strict=True)]
        file = write_file(self.lake.table_url("images"), shard.bucket, pa.Table.from_pylist(rows, IMAGES))
        return ShardResult(len(rows), {"images": file})


def picture_seed(seed: int, number: int, repeat: int) -> int:
    """Return the seed of a prompt's picture, from the seed of the evaluation."""
    digest = hashlib.sha256(repr((seed, number, repeat)).encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


@lru_cache(maxsize=1)
def _load_model(url: str) -> "Imagen":
    import torch

    from imagen.models.model import Imagen

    return Imagen.from_pretrained(url, device=torch.device(resolve_device("auto")))


def image_row(id: str, picture: Image.Image) -> dict[str, Any]:
    """Return a generated picture as a row of `images`, encoded as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    content = buffer.getvalue()
    size = {"width": picture.width, "height": picture.height}
    original = {"original_width": picture.width, "original_height": picture.height, "original_bytes": len(content)}
    digest = hashlib.sha256(content).hexdigest()
    return {"id": id, "image": content, "format": "png", **size, **original, "sha256": digest}
