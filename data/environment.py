"""Settings from environment variables: the location of the lake, and the engine that runs the shards.

The content of a dataset is not set here but in recipes. Credentials are environment variables too, under the names that
their libraries use (see `data/lake/storage.py`).
"""

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import SettingsError

PREFIX = "IMAGEN_"


class Settings(BaseModel):
    """Settings that are read from environment variables: `lake` from IMAGEN_LAKE, and so on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lake: str = Field("lake", description="folder or URL of the lake when no option names one")
    engine: Literal["local", "ray"] = Field("local", description="local: worker processes here; ray: a Ray cluster")
    workers: int | None = Field(None, ge=1, description="number of workers; by default one per core")
    shard_minutes: float = Field(60, gt=0, description="minutes without a finished shard; then workers are killed")
    worker_cpus: float = Field(1, gt=0, description="cores of a Ray cluster per worker")
    worker_gpus: float = Field(0, ge=0, description="GPUs of a Ray cluster per worker; fractions such as 0.5 share one")


def read_settings() -> Settings:
    """Read the settings from environment variables. An empty variable counts as unset.

    Raises:
        SettingsError: A variable has an invalid value.
    """
    variables = {name: os.environ.get(variable_name(name), "") for name in Settings.model_fields}
    values = {name: value for name, value in variables.items() if value}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise SettingsError(f"invalid environment variable {variable_name(name)}={values[name]}: {message}") from None


def variable_name(setting: str) -> str:
    """Return the name of the environment variable for a setting, such as `IMAGEN_LAKE` for `lake`."""
    return PREFIX + setting.upper()
