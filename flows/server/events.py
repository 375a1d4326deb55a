"""Events for triggers: a dataset was published, a model was trained, evaluated or judged.

The payload has all that a receiver needs. Events can be lost, so nothing depends on them alone: `reconcile` finds
missing work in the lake.
"""

from typing import Any

from prefect.events import emit_event

PUBLISHED = "imagen.dataset.published"
TRAINED = "imagen.model.trained"
EVALUATED = "imagen.model.evaluated"
JUDGED = "imagen.model.judged"


def dataset_published(lake: str, dataset: str, version: int, **more: Any) -> None:
    """Emit the event that a version of a dataset was published."""
    _emit(PUBLISHED, "dataset", dataset, {"lake": lake, "dataset": dataset, "version": version, **more})


def model_trained(lake: str, model: str, dataset: str, version: int) -> None:
    """Emit the event that a model was trained on a dataset version."""
    _emit(TRAINED, "model", _name(model), {"lake": lake, "model": model, "dataset": dataset, "version": version})


def model_evaluated(lake: str, model: str, suite: str, figures: dict[str, float]) -> None:
    """Emit the event that a model was measured on a suite."""
    _emit(EVALUATED, "model", _name(model), {"lake": lake, "model": model, "suite": suite, "figures": figures})


def model_judged(lake: str, model: str, act: str, champion: int | None, why: str) -> None:
    """Emit the event that the gate judged a model: promoted, rejected, or left to a person."""
    payload = {"lake": lake, "model": model, "act": act, "champion": champion, "why": why}
    _emit(JUDGED, "model", _name(model), payload, {"imagen.act": act})


def _emit(event: str, kind: str, name: str, payload: dict[str, Any], labels: dict[str, str] | None = None) -> None:
    """Emit an event whose resource is the dataset or the models' name, so that triggers can match it."""
    resource = {"prefect.resource.id": f"imagen.{kind}.{name}", "prefect.resource.name": name, **(labels or {})}
    emit_event(event, resource, payload=payload)


def _name(model: str) -> str:
    return model.partition("/")[0]
