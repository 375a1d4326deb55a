"""Make a model of a lake from trained stages: the pipeline, its folder, and its row in `models`."""

import json
from datetime import UTC, datetime
from typing import Any

from data.lake import storage
from data.lake.append import append_row
from data.lake.lake import Lake
from data.lake.layout import MODELS_TABLE as TABLE
from data.lake.lineage import code_version
from data.lake.table import Table
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.prompts import load_t5
from imagen.cascade.sampling import build_scheduler
from imagen.cascade.settings import SampleSettings
from imagen.cascade.unet import UNet
from imagen.config.cascade import CascadeSettings
from imagen.config.training import TrainConfig
from imagen.models.folder import digest_of, write_folder
from imagen.models.model import Imagen, encoder_settings
from imagen.models.table import MODELS, TrainedModel, model_by_id, models

FOLDER = "cascades"
MAX_COPIED_ENCODER = 500_000_000  # bytes: a text encoder in a folder is copied into the model if it is no larger


def assemble_pipeline(
    cascade: CascadeSettings, sampling: tuple[SampleSettings, ...], text: dict[str, Any] | None, unets: list[UNet]
) -> Imagen:
    """Make a pipeline of trained U-Nets.

    Args:
        cascade: the stages, in order.
        sampling: the default sampling settings of each stage.
        text: the text encoder's settings; None for models without text. A T5 in a small folder becomes a part of the
            pipeline; for any other encoder the pipeline keeps only the settings.
        unets: the U-Net of each stage.
    """
    components: dict[str, Any] = {}
    stages = []
    for number, (stage, unet, settings) in enumerate(zip(cascade.stages, unets, sampling, strict=True), start=1):
        suffix = "" if number == 1 else f"_{number}"
        diffusion = Diffusion(stage.diffusion, stage.resolution)
        components |= {f"unet{suffix}": unet, f"scheduler{suffix}": build_scheduler(diffusion, settings)}
        stages.append(
            {
                "resolution": stage.resolution,
                "diffusion": stage.diffusion.model_dump(mode="json"),
                "sample": settings.model_dump(mode="json"),
            }
        )
    return Imagen(**components, **_text_components(text), stages=stages, text=text)


def add_model(lake: Lake, config: TrainConfig, id: str, model: Imagen, lineage: dict[str, Any]) -> TrainedModel:
    """Add a trained model to a lake: first its folder, then its row. A model without a row does not exist.

    Args:
        id: the hash of the model's inputs; the folder is named by it.
        lineage: `dataset`, `version`, and `stages`, with the steps and seconds of each stage.

    Returns:
        The row, whose number is the next one of the model's name.
    """
    folder = f"{FOLDER}/{config.name}-{id[:12]}"
    write_folder(model, storage.join(lake.url, folder))
    digest = digest_of(model)

    def make_row(table: Table) -> dict[str, Any]:
        numbers = [trained.number for trained in models(lake) if trained.name == config.name]
        return {
            "id": id,
            "name": config.name,
            "number": 1 + max(numbers, default=0),
            "dataset": lineage["dataset"],
            "version": lineage["version"],
            "config": config.model_dump_json(),
            "config_hash": config.hash,
            "text": (model.config.text or {}).get("table"),
            "stages": json.dumps(lineage["stages"]),
            "digest": digest,
            "code": json.dumps(code_version()),
            "made": datetime.now(UTC),
            "folder": folder,
        }

    def metadata_of(row: dict[str, Any]) -> dict[str, Any]:
        return {"model": f"{row['name']}/{row['number']}", "dataset": row["dataset"]}

    append_row(lake, TABLE, MODELS, make_row, metadata_of)
    added = model_by_id(lake, id)
    assert added is not None
    return added


def _text_components(text: dict[str, Any] | None) -> dict[str, Any]:
    if text is None or text["encoder"] != "t5":
        return {}
    from transformers.utils import logging

    folder = encoder_settings(text).folder
    if folder is None or sum(path.stat().st_size for path in folder.iterdir()) > MAX_COPIED_ENCODER:
        return {}
    logging.disable_progress_bar()
    tokenizer, encoder = load_t5(folder, folder, text["precision"])
    return {"text_encoder": encoder, "tokenizer": tokenizer}
