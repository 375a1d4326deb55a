"""Whether a dataset version is worth a training: a policy, what it goes by, each decision as a row of `retrains`."""

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
        "since": pa.int32(),  # the number of the model that was trained last; null: there is none
        "train": pa.bool_(),
        "why": pa.string(),
        "figures": pa.string(),  # JSON: what it was decided by
        "policy": pa.string(),  # JSON
        "code": pa.string(),  # JSON: version and commit
        "at": pa.timestamp("us", tz="UTC"),
    }
)


class RetrainPolicy(BaseModel):
    """One of the first three is enough, unless the budget is spent; what is left out is not asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grown: float | None = Field(0.1, ge=0, description="new samples, as a share of those that the last model learnt")
    drift: float | None = Field(0.1, ge=0, le=1, description="the largest distance of a score's two distributions")
    days: float | None = Field(None, gt=0, description="since the last model was made, if the dataset changed at all")
    hours: float | None = Field(
        None, gt=0, description="budget of training a week, in hours of a GPU: beyond it none begins"
    )


@dataclass(frozen=True)
class RetrainDecision:
    """A row of `retrains`."""

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
    """Of the newest version if none is named. Says the same however often it is asked, and writes nothing."""
    now = now or datetime.now(UTC)
    asked = version_of(lake, dataset, version).version
    trained = [one for one in models(lake) if one.name == name]
    hours = sum(_seconds(one) for one in trained if one.made > now - WEEK) / 3600
    last = next((one for one in trained if one.dataset == dataset), None)
    if last is None:
        return _within(
            policy, RetrainDecision(name, dataset, asked, None, True, "there is no model of it yet", {"hours": hours})
        )
    found = diff(lake, dataset, last.version, asked) if last.version != asked else Diff()
    figures = {
        "grown": found.into / max(1, found.before),
        "drift": max((shift.distance for shift in found.shifts), default=0.0),
        "days": (now - last.made) / timedelta(days=1),
        "hours": hours,
    }
    moved = found.into + found.out + found.changed
    decided = RetrainDecision(name, dataset, asked, last.number, *_judged(policy, figures, last, moved), figures)
    return _within(policy, decided) if decided.train else decided


def record_decision(lake: Lake, decided: RetrainDecision, policy: RetrainPolicy) -> dict[str, Any]:
    """The row of a decision, added to the table."""
    at = datetime.now(UTC)
    said = f"{decided.name} {decided.dataset}@{decided.version} {at.isoformat()}"
    row = {
        **vars(decided),
        "id": hashlib.sha256(said.encode()).hexdigest()[:32],
        "figures": json.dumps(decided.figures),
        "policy": policy.model_dump_json(),
        "code": json.dumps(code_version()),
        "at": at,
    }
    return append_row(lake, TABLE, RETRAINS, lambda table: row)


def decisions_on_version(lake: Lake, name: str, dataset: str, version: int) -> list[dict[str, Any]]:
    """The rows on one version of a dataset, in order."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    asked = (name, dataset, version)
    return sorted(
        (row for row in rows if (row["name"], row["dataset"], row["version"]) == asked), key=lambda row: row["at"]
    )


def _judged(policy: RetrainPolicy, figures: dict[str, float], last: TrainedModel, moved: int) -> tuple[bool, str]:
    since = f"since {last.reference} learnt {last.dataset}@{last.version}"
    if not moved:
        return False, f"nothing changed {since}"
    grown, drift, days = (figures[name] for name in ("grown", "drift", "days"))
    if policy.grown is not None and grown >= policy.grown:
        return True, f"{grown:.1%} new samples {since}, {policy.grown:.1%} is enough"
    if policy.drift is not None and drift >= policy.drift:
        return True, f"a score drifted by {drift:.3f} {since}, {policy.drift:.3f} is enough"
    if policy.days is not None and days >= policy.days:
        return True, f"{days:.1f} days {since}, {policy.days:g} are enough"
    return False, f"{grown:.1%} new samples, drift {drift:.3f}, {days:.1f} days {since}: not enough"


def _within(policy: RetrainPolicy, decided: RetrainDecision) -> RetrainDecision:
    """Nothing is trained beyond the budget."""
    hours = decided.figures["hours"]
    if policy.hours is None or hours < policy.hours:
        return decided
    why = (
        f"{decided.why}; but {hours:.1f} hours of a GPU were trained in seven days, and the budget is {policy.hours:g}"
    )
    return RetrainDecision(decided.name, decided.dataset, decided.version, decided.since, False, why, decided.figures)


def _seconds(trained: TrainedModel) -> float:
    return sum(device_seconds(stage) for stage in trained.stages.values())
