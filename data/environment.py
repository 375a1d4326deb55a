"""What the environment says of where and with what this runs. What is built is said in recipes and configurations.

Credentials are the environment's too, under the names that their libraries know: storage.py says which.
"""

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import SettingsError

PREFIX = "IMAGEN_"


class Settings(BaseModel):
    """Each is a variable of the environment: IMAGEN_LAKE and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lake: str = Field("lake", description="folder or URL of the lake, where nothing else names one")
    engine: Literal["local", "ray"] = Field("local", description="what runs shards: processes here, or a Ray cluster's")
    workers: int | None = Field(None, ge=1, description="how many workers; as many as there are cores if not given")
    shard_minutes: float = Field(60, gt=0, description="time in which a shard must be done: then its worker is ended")
    worker_cpus: float = Field(1, gt=0, description="cores that a worker takes of a Ray cluster")
    worker_gpus: float = Field(0, ge=0, description="its share of GPUs there, such as 0.5")


def read_settings() -> Settings:
    said = {
        name: os.environ[variable_name(name)] for name in Settings.model_fields if os.environ.get(variable_name(name))
    }
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise SettingsError(
            f"the environment says {variable_name(name)}={said[name]}, {wrong['msg'][0].lower()}{wrong['msg'][1:]}"
        ) from None


def variable_name(setting: str) -> str:
    return PREFIX + setting.upper()
