"""The trained cascades of a lake, as rows of the table `models`. assemble.py adds them."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from data.environment import read_settings
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import MODELS_TABLE as TABLE
from imagen.errors import ModelNotFound
from imagen.models.registry import champion_of, decisions

INDEX = "model_index.json"  # of a cascade's folder; it is written last
CHAMPION = "champion"  # the alias of the model that the registry names as that
MODELS = pa.schema(
    {
        "id": pa.string(),  # of what it was made from: configuration, dataset and version
        "name": pa.string(),
        "number": pa.int32(),
        "dataset": pa.string(),
        "version": pa.int32(),
        "config": pa.string(),  # JSON
        "config_hash": pa.string(),
        "text": pa.string(),  # the table of embeddings that it was trained on; null: trained without text
        "stages": pa.string(),  # JSON: steps, seconds and device seconds of each
        "digest": pa.string(),  # of the weights
        "code": pa.string(),  # JSON: version and commit
        "made": pa.timestamp("us", tz="UTC"),
        "folder": pa.string(),  # relative to the lake
    }
)


@dataclass(frozen=True)
class TrainedModel:
    """A row of `models`."""

    id: str
    name: str
    number: int
    dataset: str
    version: int
    config: dict[str, Any]
    config_hash: str
    text: str | None
    stages: dict[str, dict[str, float]]
    digest: str
    code: dict[str, Any]
    made: datetime
    folder: str

    @property
    def reference(self) -> str:
        """The name that users write for the model: NAME/NUMBER."""
        return f"{self.name}/{self.number}"


def models(lake: Lake) -> list[TrainedModel]:
    """Return all models of a lake, newest first."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    trained = []
    for row in rows:
        parsed = {name: json.loads(row[name]) for name in ("config", "stages", "code")}
        trained.append(TrainedModel(**{**row, **parsed}))
    return sorted(trained, key=lambda model: (model.made, model.number), reverse=True)


def model_by_id(lake: Lake, id: str) -> TrainedModel | None:
    """Return the model with this id, or None if no model was trained from these inputs yet."""
    return next((model for model in models(lake) if model.id == id), None)


def find_model(lake: Lake, reference: str) -> TrainedModel:
    """Return the model that NAME/NUMBER or NAME/champion names.

    Raises:
        ModelNotFound: there is no such model, or the name has no champion.
    """
    name, _, number = reference.partition("/")
    if number == CHAMPION:
        champion = champion_of(decisions(lake, name))
        if champion is None:
            raise ModelNotFound(f"{name} has no champion in {lake.url}; make one: imagen promote {name}/NUMBER")
        number = str(champion)
    trained = models(lake)
    for model in trained:
        if model.reference == f"{name}/{number}":
            return model
    existing = ", ".join(model.reference for model in trained) or "none"
    raise ModelNotFound(f"{lake.url} has no model {name}/{number}; there are: {existing}")


def model_url(where: str, lake: str | None = None) -> str:
    """Return the URL of a cascade's folder, given as a folder or URL, or as NAME/NUMBER or NAME/champion of a lake.

    Raises:
        ModelNotFound: there is no such folder and no such model.
    """
    if storage.exists(storage.join(where, INDEX)):
        return where
    if re.fullmatch(r"[a-z][a-z0-9_-]*/(\d+|champion)", where):
        opened = Lake.open(lake or read_settings().lake)
        return storage.join(opened.url, find_model(opened, where).folder)
    raise ModelNotFound(
        f"{where} is neither a cascade's folder (it has no {INDEX}) nor a lake's model (NAME/NUMBER or NAME/champion)"
    )


def weights_digest(url: str) -> str:
    """Return the digest of a model folder that no table of the lake names."""
    from imagen.models.folder import digest_of
    from imagen.models.model import Imagen

    return digest_of(Imagen.from_pretrained(url))
