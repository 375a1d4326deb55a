"""The trained cascades of a lake: the table `models`, a row each with its lineage, and a folder each for the model."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import MODELS_TABLE as TABLE
from data.lake.lineage import code_version
from data.lake.schemas import bucket_of
from data.lake.table import write_file
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.prompts import load_t5
from imagen.cascade.sampling import SampleSettings, sampler_of
from imagen.cascade.unet import UNet
from imagen.config.cascade import CascadeSettings
from imagen.config.training import TrainConfig
from imagen.errors import ModelNotFound
from imagen.models.folder import digest_of, write_folder
from imagen.models.model import Imagen, encoder_settings
from imagen.models.registry import champion_of, decisions

FOLDER = "cascades"
CHAMPION = "champion"  # the alias of the model that the registry has as that
CARRIED = 500_000_000  # bytes: a text encoder in a folder is copied into the model if it is no larger
MODELS_TABLE = pa.schema(
    {
        "id": pa.string(),  # of what it was made from: configuration, dataset and version
        "name": pa.string(),
        "number": pa.int32(),
        "dataset": pa.string(),
        "version": pa.int32(),
        "config": pa.string(),  # JSON
        "config_hash": pa.string(),
        "text": pa.string(),  # the table of embeddings it reads; null: it knows no text
        "stages": pa.string(),  # JSON: steps, seconds and device seconds of each
        "digest": pa.string(),  # of the weights
        "code": pa.string(),  # JSON: version and commit
        "made": pa.timestamp("us", tz="UTC"),
        "folder": pa.string(),  # under the lake
    }
)


@dataclass(frozen=True)
class Trained:
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
        return f"{self.name}/{self.number}"


def models(lake: Lake) -> list[Trained]:
    """Every model, newest first."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    read = [{**row, **{name: json.loads(row[name]) for name in ("config", "stages", "code")}} for row in rows]
    return sorted((Trained(**row) for row in read), key=lambda one: (one.made, one.number), reverse=True)


def model_of(lake: Lake, id: str) -> Trained | None:
    """The model that was made from this already."""
    return next((one for one in models(lake) if one.id == id), None)


def find_model(lake: Lake, reference: str) -> Trained:
    """By NAME/NUMBER, or NAME/champion."""
    name, _, number = reference.partition("/")
    known = models(lake)
    if number == CHAMPION:
        number = str(champion_of(decisions(lake, name)) or "")
        if not number:
            raise ModelNotFound(f"{name} has no champion in {lake.url}; make one: imagen promote {name}/NUMBER")
    found = next((one for one in known if one.reference == f"{name}/{number}"), None)
    if found is None:
        there = ", ".join(one.reference for one in known) or "none"
        raise ModelNotFound(f"{lake.url} has no model {name}/{number}; there are: {there}")
    return found


def pipeline_of(
    cascade: CascadeSettings, sampling: tuple[SampleSettings, ...], text: dict[str, Any] | None, unets: list[UNet]
) -> Imagen:
    """Trained stages, their samplers, and the text encoder: itself if it lies in a small folder, else its id."""
    parts: dict[str, Any] = {}
    stages = []
    for number, (own, unet, settings) in enumerate(zip(cascade.stages, unets, sampling, strict=True), start=1):
        slot = "" if number == 1 else f"_{number}"
        diffusion = Diffusion(own.diffusion, own.resolution)
        parts |= {f"unet{slot}": unet, f"scheduler{slot}": sampler_of(diffusion, settings)}
        said = {"diffusion": own.diffusion.model_dump(mode="json"), "sample": settings.model_dump(mode="json")}
        stages.append({"resolution": own.resolution, **said})
    return Imagen(**parts, **_text_parts(text), stages=stages, text=text)


def _text_parts(text: dict[str, Any] | None) -> dict[str, Any]:
    if text is None or text["encoder"] != "t5":
        return {}
    from transformers.utils import logging

    folder = encoder_settings(text).folder
    if folder is None or sum(path.stat().st_size for path in folder.iterdir()) > CARRIED:
        return {}
    logging.disable_progress_bar()
    tokenizer, encoder = load_t5(folder, folder, text["precision"])
    return {"text_encoder": encoder, "tokenizer": tokenizer}


def add_model(lake: Lake, config: TrainConfig, id: str, model: Imagen, lineage: dict[str, Any]) -> Trained:
    """Write the folder, then the row: a model without a row does not exist."""
    folder = f"{FOLDER}/{config.name}-{id[:12]}"
    write_folder(model, storage.join(lake.url, folder))
    while True:
        table = lake.table_or_make(TABLE, MODELS_TABLE)
        known = models(lake)
        row = {
            "id": id,
            "name": config.name,
            "number": 1 + max((one.number for one in known if one.name == config.name), default=0),
            "dataset": lineage["dataset"],
            "version": lineage["version"],
            "config": config.model_dump_json(),
            "config_hash": config.hash,
            "text": (model.config.text or {}).get("table"),
            "stages": json.dumps(lineage["stages"]),
            "digest": digest_of(model),
            "code": json.dumps(code_version()),
            "made": datetime.now(UTC),
            "folder": folder,
        }
        rows = pa.table({name: [value] for name, value in row.items()}).cast(MODELS_TABLE)
        file = write_file(table.url, bucket_of(id, lake.config.buckets), rows)
        if table.replace([file], [], {"model": f"{row['name']}/{row['number']}", "dataset": row["dataset"]}):
            found = model_of(lake, id)
            assert found is not None
            return found
