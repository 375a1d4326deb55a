"""Datasets and models as Prefect assets, which record the run that made them and their sources."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS

from data.build.build import BuildResult
from data.build.recipe import Recipe
from data.lake import storage
from data.lake.lake import Lake
from flows.server.retry import patiently

if TYPE_CHECKING:
    from imagen.models.table import TrainedModel


def dataset_made(lake: Lake, recipe: Recipe, built: BuildResult) -> None:
    """Record that the current run materialized a dataset from its sources."""
    asset = _asset(lake.table_url(f"datasets/{built.dataset}"), f"dataset {built.dataset}")
    sources = [_key(storage.without_secrets(source.path)) for source in recipe.sources]
    _note(asset, sources, {"version": built.version, "samples": built.kept, "recipe": recipe.name})


def model_made(lake: Lake, trained: "TrainedModel") -> None:
    """Record that the current run materialized a model from its dataset."""
    asset = _asset(storage.join(lake.url, "models", trained.name), f"models {trained.name}")
    dataset = _key(lake.table_url(f"datasets/{trained.dataset}"))
    _note(asset, [dataset], {"number": trained.number, "digest": trained.digest, "version": trained.version})


def _note(asset: Asset, sources: Sequence[str], metadata: dict[str, Any]) -> None:
    """Materialize an asset in a task of the current run; the metadata is stored with the asset's event."""

    @materialize(asset, asset_deps=list(sources), by="imagen", name="materialize", cache_policy=NO_CACHE)
    def note() -> None:
        asset.add_metadata(metadata)

    patiently(note)


def _asset(url: str, name: str) -> Asset:
    return Asset(key=_key(url), properties=AssetProperties(name=name))


def _key(url: str) -> str:
    """Return the key of an asset: a URL without the characters that Prefect forbids."""
    key = Path(url).absolute().as_uri() if storage.is_local(url) else url
    plain = "".join("_" if letter in RESTRICTED_ASSET_CHARACTERS else letter for letter in key)
    return plain[:MAX_ASSET_KEY_LENGTH]
