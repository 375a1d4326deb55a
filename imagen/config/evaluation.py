"""The settings of an evaluation: its prompts, the sampling of the model, and the metrics."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.build.yaml_file import first_error_message, parse_yaml
from data.scorers.clip import ClipScore
from data.scorers.heads import Aesthetic
from imagen.errors import ConfigError
from imagen.metrics.distances import DISTANCES, Distance
from imagen.metrics.extractors import Dinov2, Inception
from imagen.metrics.vqa import Vqa


class EvaluateSettings(BaseModel):
    """Settings of an evaluation. Scores are named as in the dataset's recipe; null uses the scores of that recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str = Field("shapes", description="the suite of prompts: shapes, or a file or folder")
    n: int = Field(1, ge=1, description="images of each prompt")
    seed: int = Field(0, ge=0, description="seed of a prompt's first image; each next image adds 1")
    sampling: dict[str, Any] = Field(default_factory=dict, description="changes of the model's sampling: {guidance: 4}")
    clip: dict[str, ClipScore] | None = Field(
        None, description="CLIP models by name, for scores and for distances of features"
    )
    aesthetic: dict[str, Aesthetic] | None = Field(
        None, description="aesthetic heads by name, each with its CLIP model"
    )
    inception: Inception | None = Field(None, description="features of FID: {weights: FILE}")
    dinov2: Dinov2 | None = Field(None, description="features of DINOv2: {model: FOLDER}")
    vqa: Vqa | None = Field(None, description="the model that answers the suite's questions: {model: FOLDER}")
    distances: tuple[Distance, ...] = Field(
        DISTANCES, description="distances between the features of real and generated images"
    )


def load_settings(name: str | None, changes: dict[str, Any]) -> EvaluateSettings:
    """Load an evaluation's settings.

    Args:
        name: the path of a YAML file, or None for the defaults.
        changes: values that replace those of the file; those under `sampling` are merged.

    Raises:
        ConfigError: the file can't be read or is not valid; the message names line and field.
    """
    values, nodes = dict[str, Any](), None
    if name is not None:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"evaluation {name} can't be read: {error}") from None
        values, nodes = parse_yaml(text, name, "evaluation: it must be a mapping, such as suite: shapes", ConfigError)
    sampling = {**(values.get("sampling") or {}), **changes.pop("sampling", {})}
    try:
        return EvaluateSettings.model_validate({**values, **changes, "sampling": sampling})
    except ValidationError as error:
        raise ConfigError(first_error_message(error, name or "evaluation", nodes)) from None
