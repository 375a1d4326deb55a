"""What an evaluation asks and measures."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.build.yaml_file import first_wrong, read_values
from data.scorers.clip import ClipScore
from data.scorers.heads import Aesthetic
from imagen.errors import ConfigError
from imagen.metrics.distances import DISTANCES, Distance
from imagen.metrics.extractors import Dinov2, Inception
from imagen.metrics.vqa import Vqa


class EvaluateSettings(BaseModel):
    """Scores are named as the recipe of a dataset names them; left out, they are those of the dataset's recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str = Field("shapes", description="shapes, or a file or folder of prompts")
    n: int = Field(1, ge=1, description="pictures of each prompt")
    seed: int = Field(0, ge=0)
    sampling: dict[str, Any] = Field(default_factory=dict, description="changes of how the model samples: guidance: 4")
    clip: dict[str, ClipScore] | None = Field(None, description="name: CLIP model; its score, and its features")
    aesthetic: dict[str, Aesthetic] | None = Field(None, description="name: CLIP model and head")
    inception: Inception | None = Field(None, description="FID's features: {weights: FILE}")
    dinov2: Dinov2 | None = Field(None, description="DINOv2's features: {model: FOLDER}")
    vqa: Vqa | None = Field(None, description="who answers the suite's checks: {model: FOLDER}")
    distances: tuple[Distance, ...] = Field(DISTANCES, description="of the features of real and made pictures")


def load_settings(name: str | None, changes: dict[str, Any]) -> EvaluateSettings:
    """Of a YAML file, or the defaults; `changes` take the place of what it says."""
    values, nodes = dict[str, Any](), None
    if name is not None:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"evaluation {name} can't be read: {error}") from None
        values, nodes = read_values(text, name, "evaluation: it must be a mapping, such as suite: shapes", ConfigError)
    sampling = {**(values.get("sampling") or {}), **changes.pop("sampling", {})}
    try:
        return EvaluateSettings.model_validate({**values, **changes, "sampling": sampling})
    except ValidationError as error:
        raise ConfigError(first_wrong(error, name or "evaluation", nodes)) from None
