"""What happened, for whoever acts on it: events whose payload is enough to act on. The lake is the truth all the same:
an event may be lost, and nothing waits for one alone.
"""

from typing import Any

from prefect.events import emit_event

PUBLISHED = "imagen.dataset.published"
TRAINED = "imagen.model.trained"
EVALUATED = "imagen.model.evaluated"
JUDGED = "imagen.model.judged"


def dataset_published(lake: str, dataset: str, version: int, **more: Any) -> None:
    _emit(PUBLISHED, "dataset", dataset, {"lake": lake, "dataset": dataset, "version": version, **more})


def model_trained(lake: str, model: str, dataset: str, version: int) -> None:
    _emit(TRAINED, "model", _name(model), {"lake": lake, "model": model, "dataset": dataset, "version": version})


def model_evaluated(lake: str, model: str, suite: str, figures: dict[str, float]) -> None:
    _emit(EVALUATED, "model", _name(model), {"lake": lake, "model": model, "suite": suite, "figures": figures})


def model_judged(lake: str, model: str, act: str, champion: int | None, why: str) -> None:
    payload = {"lake": lake, "model": model, "act": act, "champion": champion, "why": why}
    _emit(JUDGED, "model", _name(model), payload, {"imagen.act": act})


def _emit(event: str, kind: str, name: str, payload: dict[str, Any], labels: dict[str, str] | None = None) -> None:
    """The resource is the dataset or the name of the models, so that a trigger may ask for one by its name."""
    resource = {"prefect.resource.id": f"imagen.{kind}.{name}", "prefect.resource.name": name, **(labels or {})}
    emit_event(event, resource, payload=payload)


def _name(model: str) -> str:
    return model.partition("/")[0]
