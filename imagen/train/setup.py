"""What a training is: a configuration, a dataset version, its text, and where it is kept. It loads no torch."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.encoders.settings import EncoderSettings
from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import GRIDS_FOLDER, TRAINING_FOLDER
from data.publish.versions import Version, versions
from imagen.config.cascade import CascadeSettings
from imagen.config.training import TrainConfig
from imagen.errors import TextNotUsable
from imagen.models.table import CHAMPION, find_model
from imagen.train.checkpoint import Checkpoints

if TYPE_CHECKING:
    from data.reader.reader import Reader


def training_url(lake: Lake, name: str, id: str) -> str:
    """Where a training keeps what it makes on the way, by the name and the id of what comes of it."""
    return storage.join(lake.url, TRAINING_FOLDER, f"{name}-{id[:12]}")


def grid_urls(stage_url: str) -> list[str]:
    """The URLs of a stage's grids, oldest first."""
    folder = storage.join(stage_url, GRIDS_FOLDER)
    names = storage.files(folder) if storage.exists(folder) else []
    return [storage.join(folder, name) for name in names if name.endswith(".png")]


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and where it is kept."""

    lake: Lake
    config: TrainConfig
    dataset: str
    version: int
    cascade: CascadeSettings  # with the width of the dataset's text
    text: dict[str, Any] | None  # the encoder's settings
    columns: tuple[str, ...]

    @property
    def id(self) -> str:
        said = f"{self.config.hash} {self.dataset}@{self.version}"
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    @property
    def url(self) -> str:
        return training_url(self.lake, self.config.name, self.id)

    def stage_url(self, stage: int) -> str:
        return storage.join(self.url, f"stage-{stage + 1}")

    def checkpoints(self, stage: int) -> Checkpoints:
        settings = self.config.training(stage)
        return Checkpoints(storage.join(self.stage_url(stage), "checkpoints"), settings.keep, settings.for_good_every)

    def reader(self, stage: int, **how: Any) -> "Reader":
        """Of what a stage reads: pictures no larger than it needs, and its text."""
        from data.reader.reader import Reader

        side = self.cascade.stages[stage].resolution
        columns = [image_column(self.columns, side), *([self.config.text] if self.config.text else [])]
        columns += self.config.mix
        return Reader(self.lake, self.dataset, self.version, columns=tuple(columns), **how)


def plan_training(lake: Lake, config: TrainConfig, dataset: str, version: int | None = None) -> Training:
    """The training of a dataset version, after a look at whether it can be."""
    known = versions(lake, dataset)
    if not known:
        raise DatasetNotFound(f"{dataset} has no version yet. Build it: imagen build RECIPE --lake {lake.url}")
    chosen = next((one for one in known if version in (None, one.version)), None)
    if chosen is None:
        raise DatasetVersionNotFound(
            f"{dataset}@{version} does not exist in {lake.url}; newest is {dataset}@{known[0].version}. "
            f"List versions: imagen versions {dataset}"
        )
    columns = tuple(lake.table(f"datasets/{dataset}", chosen.version).schema().names)
    text, cascade = None, config.resolved_cascade.model_copy(update={"text_width": None})
    if config.text is not None:
        text, width = text_settings(lake, chosen, config.text, columns)
        for name in config.mix:
            check_same_encoder(chosen, config.text, text, name, text_settings(lake, chosen, name, columns)[0])
        asked = config.cascade.text_width if config.cascade else None
        if asked not in (None, width):
            raise TextNotUsable(
                f"the embeddings {config.text!r} of {dataset}@{chosen.version} are {width} wide, and the cascade reads "
                f"{asked}: correct cascade.text_width, or build the dataset with another encoder"
            )
        cascade = cascade.model_copy(update={"text_width": width})
    if (config.init_from or "").endswith(f"/{CHAMPION}"):  # which one it was then is part of what is trained
        config = config.model_copy(update={"init_from": find_model(lake, config.init_from or "").reference})
    return Training(lake, config, dataset, chosen.version, cascade, text, columns)


def text_settings(lake: Lake, version: Version, column: str, columns: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """The settings of the encoder whose embeddings a dataset version has, with its table, and their width."""
    if f"{column}_embedding" not in columns:
        there = [name.removesuffix("_embedding") for name in columns if name.endswith("_embedding")]
        raise TextNotUsable(
            f"{version.dataset}@{version.version} has no embeddings {column!r}, it has {', '.join(there) or 'none'}: "
            f"build it with embed.{column} in its recipe, or say text: null to train without captions"
        )
    from data.reader.reader import Reader

    settings = EncoderSettings(**version.record["recipe"]["embed"][column])
    reader = Reader(lake, version.dataset, version.version, columns=(column,), shuffle=False, rank=0, world=1)
    width = next((one[column].shape[1] for one in reader if one[column] is not None and len(one[column])), None)
    if width is None:
        raise TextNotUsable(f"no sample of {version.dataset}@{version.version} has an embedding {column!r}")
    return {**settings.model_dump(mode="json"), "table": version.record["embeddings"][column]}, width


def check_same_encoder(version: Version, name: str, text: dict[str, Any], other: str, mixed: dict[str, Any]) -> None:
    """Raise unless two embeddings are one encoder's: a model reads one language."""
    if mixed["table"] != text["table"]:
        raise TextNotUsable(
            f"mix: {other} of {version.dataset}@{version.version} is of {mixed['table']}, and {name} of "
            f"{text['table']}: mix texts that the same encoder read"
        )


def image_column(columns: Iterable[str], side: int) -> str:
    """The smallest copy of the pictures that is large enough, or the picture itself."""
    copies = sorted(int(name.removeprefix("image_")) for name in columns if re.fullmatch(r"image_\d+", name))
    return next((f"image_{size}" for size in copies if size >= side), "image")
