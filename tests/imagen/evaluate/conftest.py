import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from data.lake import Lake
from data.pairs import IMAGES, bucket_of
from data.table import write_file
from imagen.config import TrainConfig
from imagen.model import Imagen
from imagen.models import add_model, models


def copy_of(lake: Lake, url: Path) -> Lake:
    shutil.copytree(lake.url, url)
    return Lake.open(str(url))


@pytest.fixture(scope="package")
def before(little_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return with_images(copy_of(little_lake, tmp_path_factory.mktemp("evaluated") / "lake"))


def with_images(lake: Lake) -> Lake:
    """With the pictures that `drawn@1` was published from."""
    rows = lake.table("datasets/drawn").dataset().to_table(columns=["id", "image", "width", "height"]).to_pylist()
    images = lake.table_or_make("images", IMAGES)
    known = [row | {"image": row["image"]["bytes"], "format": "png"} for row in rows]
    for bucket in lake.buckets:
        own = [row for row in known if bucket_of(row["id"], len(lake.buckets)) == bucket]
        images.append([write_file(images.url, bucket, pa.Table.from_pylist(own, IMAGES))])
    return lake


@pytest.fixture(scope="package")
def several(before: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """With little/2 and little/3 beside little/1, of other weights."""
    lake = copy_of(before, tmp_path_factory.mktemp("several") / "lake")
    for number in (2, 3):
        another(lake, number)
    return lake


def another(lake: Lake, number: int, **config: object) -> str:
    """One more model of the name, whose weights are the first's and a little else."""
    first = models(lake)[-1]
    model = Imagen.from_pretrained("little/1", lake.url)
    torch.manual_seed(number)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    lineage = {"dataset": first.dataset, "version": first.version, "stages": first.stages}
    said = TrainConfig.model_validate({**first.config, **config})
    return add_model(lake, said, f"{number:x}" * 32, model, lineage).reference
