"""The inputs and URLs of a training: a configuration, a dataset version and its text encoder.

Importing it loads no torch.
"""

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
    """Return the URL under which a training keeps its checkpoints, measures and grids, by the model's name and id."""
    return storage.join(lake.url, TRAINING_FOLDER, f"{name}-{id[:12]}")


def grid_urls(stage_url: str) -> list[str]:
    """Return the URLs of a stage's grids, oldest first."""
    folder = storage.join(stage_url, GRIDS_FOLDER)
    names = storage.files(folder) if storage.exists(folder) else []
    return [storage.join(folder, name) for name in names if name.endswith(".png")]


@dataclass(frozen=True)
class Training:
    """A configuration with the dataset version that it is trained on."""

    lake: Lake
    config: TrainConfig
    dataset: str
    version: int
    cascade: CascadeSettings  # with the width of the dataset's text embeddings
    text: dict[str, Any] | None  # the text encoder's settings, with the table of its embeddings
    columns: tuple[str, ...]  # of the dataset version

    @property
    def id(self) -> str:
        """The id of the training and of its model: it follows from the configuration and the dataset version."""
        key = f"{self.config.hash} {self.dataset}@{self.version}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]

    @property
    def url(self) -> str:
        """The URL of its checkpoints, measures and grids."""
        return training_url(self.lake, self.config.name, self.id)

    def stage_url(self, stage: int) -> str:
        """Return the URL of one stage's checkpoints, measures and grids."""
        return storage.join(self.url, f"stage-{stage + 1}")

    def checkpoints(self, stage: int) -> Checkpoints:
        """Return the checkpoints of a stage."""
        settings = self.config.training(stage)
        return Checkpoints(storage.join(self.stage_url(stage), "checkpoints"), settings.keep, settings.for_good_every)

    def reader(self, stage: int, **options: Any) -> "Reader":
        """Return a reader of the columns that a stage needs: images no larger than necessary, and embeddings."""
        from data.reader.reader import Reader

        side = self.cascade.stages[stage].resolution
        texts = [self.config.text] if self.config.text else []
        columns = (image_column(self.columns, side), *texts, *self.config.mix)
        return Reader(self.lake, self.dataset, self.version, columns=columns, **options)


def plan_training(lake: Lake, config: TrainConfig, dataset: str, version: int | None = None) -> Training:
    """Plan the training of a configuration on a dataset version, the newest if none is given. Nothing is written.

    Raises:
        DatasetNotFound: the dataset has no version.
        DatasetVersionNotFound: the dataset has no such version.
        TextNotUsable: the version lacks the configured embeddings, or the cascade can't read them.
        ModelNotFound: the configuration starts from NAME/champion, and the name has no champion.
    """
    existing = versions(lake, dataset)
    if not existing:
        raise DatasetNotFound(f"{dataset} has no version yet. Build it: imagen build RECIPE --lake {lake.url}")
    chosen = next((candidate for candidate in existing if version in (None, candidate.version)), None)
    if chosen is None:
        raise DatasetVersionNotFound(
            f"{dataset}@{version} does not exist in {lake.url}; newest is {dataset}@{existing[0].version}. "
            f"List versions: imagen versions {dataset}"
        )
    columns = tuple(lake.table(f"datasets/{dataset}", chosen.version).schema().names)
    text, cascade = None, config.resolved_cascade.model_copy(update={"text_width": None})
    if config.text is not None:
        text, width = text_settings(lake, chosen, config.text, columns)
        for name in config.mix:
            check_same_encoder(chosen, config.text, text, name, text_settings(lake, chosen, name, columns)[0])
        configured = config.cascade.text_width if config.cascade else None
        if configured not in (None, width):
            raise TextNotUsable(
                f"the embeddings {config.text!r} of {dataset}@{chosen.version} are {width} wide, and the cascade reads "
                f"{configured}: correct cascade.text_width, or build the dataset with another encoder"
            )
        cascade = cascade.model_copy(update={"text_width": width})
    if (config.init_from or "").endswith(f"/{CHAMPION}"):  # the id must depend on which model is champion now
        config = config.model_copy(update={"init_from": find_model(lake, config.init_from or "").reference})
    return Training(lake, config, dataset, chosen.version, cascade, text, columns)


def text_settings(lake: Lake, version: Version, name: str, columns: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """Return the settings of the encoder that made a dataset version's embeddings.

    Args:
        name: the name of the embeddings under `embed` in the recipe.
        columns: the columns of the dataset version.

    Returns:
        The encoder's settings, which name the table of its embeddings, and the width of an embedding.

    Raises:
        TextNotUsable: the version has no such embeddings, or no sample has one.
    """
    if f"{name}_embedding" not in columns:
        existing = [column.removesuffix("_embedding") for column in columns if column.endswith("_embedding")]
        raise TextNotUsable(
            f"{version.dataset}@{version.version} has no embeddings {name!r}, it has {', '.join(existing) or 'none'}: "
            f"build it with embed.{name} in its recipe, or set text: null to train without captions"
        )
    from data.reader.reader import Reader

    settings = EncoderSettings(**version.record["recipe"]["embed"][name])
    reader = Reader(lake, version.dataset, version.version, columns=(name,), shuffle=False, rank=0, world=1)
    embeddings = (sample[name] for sample in reader)
    width = next((embedding.shape[1] for embedding in embeddings if embedding is not None and len(embedding)), None)
    if width is None:
        raise TextNotUsable(f"no sample of {version.dataset}@{version.version} has an embedding {name!r}")
    return {**settings.model_dump(mode="json"), "table": version.record["embeddings"][name]}, width


def check_same_encoder(version: Version, name: str, text: dict[str, Any], other: str, mixed: dict[str, Any]) -> None:
    """Raise TextNotUsable unless two kinds of embeddings were made by the same encoder."""
    if mixed["table"] != text["table"]:
        raise TextNotUsable(
            f"mix: {other} of {version.dataset}@{version.version} is in {mixed['table']}, and {name} in "
            f"{text['table']}: mix embeddings of the same encoder"
        )


def image_column(columns: Iterable[str], side: int) -> str:
    """Return the column of the smallest copies that have at least `side` pixels, or `image` if there is none."""
    sizes = sorted(int(name.removeprefix("image_")) for name in columns if re.fullmatch(r"image_\d+", name))
    return next((f"image_{size}" for size in sizes if size >= side), "image")
