"""Decide whether to train on a new dataset version: the policy, its figures, and the decisions in `retrains`."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from data.lake.append import append_row
from data.lake.lake import Lake
from data.lake.lineage import code_version
from data.publish.versions import version_of
from data.upkeep.diff import Diff, diff
from imagen.models.table import TrainedModel, models
from imagen.train.checkpoint import device_seconds

TABLE = "retrains"
WEEK = timedelta(days=7)
RETRAINS = pa.schema(
    {
        "id": pa.string(),
        "name": pa.string(),  # of the model
        "dataset": pa.string(),
        "version": pa.int32(),
        "since": pa.int32(),  # the number of the last model of this dataset; null if there is none
        "train": pa.bool_(),
        "why": pa.string(),
        "figures": pa.string(),  # JSON: the figures that the policy compares
        "policy": pa.string(),  # JSON
        "code": pa.string(),  # JSON: version and commit
        "at": pa.timestamp("us", tz="UTC"),
    }
)


class RetrainPolicy(BaseModel):
    """Train if one of the first three limits is reached and the budget is not used up. None ignores a limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grown: float | None = Field(
        0.1, ge=0, description="new samples, as a share of those that the last model was trained on"
    )
    drift: float | None = Field(
        0.1, ge=0, le=1, description="largest distance between a score's distributions in the two versions"
    )
    days: float | None = Field(None, gt=0, description="days since the last model was trained, if the dataset changed")
    hours: float | None = Field(
        None, gt=0, description="budget of GPU hours in seven days; when it is used up, no training starts"
    )


@dataclass(frozen=True)
class RetrainDecision:
    """A decision for or against a training: a row of `retrains`.

    Attributes:
        since: the number of the last model trained on this dataset; None if there is none.
        figures: the figures that the policy compares with its limits, by name.
    """

    name: str
    dataset: str
    version: int
    since: int | None
    train: bool
    why: str
    figures: dict[str, float]


def decide(
    lake: Lake, name: str, dataset: str, version: int | None, policy: RetrainPolicy, now: datetime | None = None
) -> RetrainDecision:
    """Decide whether to train a model on a dataset version. Writes nothing; the same lake gives the same decision.

    Args:
        name: the name of the models.
        version: the version of the dataset; by default the newest.
        now: by default the current time.

    Raises:
        ImagenError: there is no such dataset version.
    """
    now = now or datetime.now(UTC)
    target = version_of(lake, dataset, version).version
    trained = [model for model in models(lake) if model.name == name]
    hours = sum(_device_seconds(model) for model in trained if model.made > now - WEEK) / 3600
    last = next((model for model in trained if model.dataset == dataset), None)
    if last is None:
        first = RetrainDecision(name, dataset, target, None, True, "there is no model of it yet", {"hours": hours})
        return _within_budget(policy, first)
    changes = diff(lake, dataset, last.version, target) if last.version != target else Diff()
    figures = {
        "grown": changes.into / max(1, changes.before),
        "drift": max((shift.distance for shift in changes.shifts), default=0.0),
        "days": (now - last.made) / timedelta(days=1),
        "hours": hours,
    }
    changed_rows = changes.into + changes.out + changes.changed
    train, why = _apply_policy(policy, figures, last, changed_rows)
    decided = RetrainDecision(name, dataset, target, last.number, train, why, figures)
    return _within_budget(policy, decided) if train else decided


def record_decision(lake: Lake, decided: RetrainDecision, policy: RetrainPolicy) -> dict[str, Any]:
    """Add a decision to `retrains`, and return its row."""
    at = datetime.now(UTC)
    text = f"{decided.name} {decided.dataset}@{decided.version} {at.isoformat()}"
    row = {
        **vars(decided),
        "id": hashlib.sha256(text.encode()).hexdigest()[:32],
        "figures": json.dumps(decided.figures),
        "policy": policy.model_dump_json(),
        "code": json.dumps(code_version()),
        "at": at,
    }
    return append_row(lake, TABLE, RETRAINS, lambda table: row)


def decisions_on_version(lake: Lake, name: str, dataset: str, version: int) -> list[dict[str, Any]]:
    """Return the rows of `retrains` for the models with a name on one dataset version, oldest first."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    matching = [row for row in rows if (row["name"], row["dataset"], row["version"]) == (name, dataset, version)]
    return sorted(matching, key=lambda row: row["at"])


def _apply_policy(
    policy: RetrainPolicy, figures: dict[str, float], last: TrainedModel, changed_rows: int
) -> tuple[bool, str]:
    """Return whether the policy's limits ask for a training, and the reason."""
    since = f"since {last.reference} learnt {last.dataset}@{last.version}"
    if not changed_rows:
        return False, f"nothing changed {since}"
    grown, drift, days = (figures[name] for name in ("grown", "drift", "days"))
    if policy.grown is not None and grown >= policy.grown:
        return True, f"{grown:.1%} new samples {since}, {policy.grown:.1%} is enough"
    if policy.drift is not None and drift >= policy.drift:
        return True, f"a score drifted by {drift:.3f} {since}, {policy.drift:.3f} is enough"
    if policy.days is not None and days >= policy.days:
        return True, f"{days:.1f} days {since}, {policy.days:g} are enough"
    return False, f"{grown:.1%} new samples, drift {drift:.3f}, {days:.1f} days {since}: not enough"


def _within_budget(policy: RetrainPolicy, decided: RetrainDecision) -> RetrainDecision:
    """Return the decision, changed to no training if the budget of the last seven days is used up."""
    hours = decided.figures["hours"]
    if policy.hours is None or hours < policy.hours:
        return decided
    why = (
        f"{decided.why}; but {hours:.1f} hours of a GPU were trained in seven days, and the budget is {policy.hours:g}"
    )
    return RetrainDecision(decided.name, decided.dataset, decided.version, decided.since, False, why, decided.figures)


def _device_seconds(trained: TrainedModel) -> float:
    """Return the training time of a model in seconds, times the number of GPUs."""
    return sum(device_seconds(stage) for stage in trained.stages.values())
