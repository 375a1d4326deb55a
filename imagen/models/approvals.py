"""A person's approval that a model may become champion: a row of `approvals`, tied to the weights by their digest."""

import getpass
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from data.lake.append import append_row
from data.lake.lake import Lake
from data.lake.lineage import code_version
from imagen.models.table import TrainedModel

TABLE = "approvals"
APPROVALS = pa.schema(
    {
        "id": pa.string(),
        "model": pa.string(),  # NAME/NUMBER at that time
        "digest": pa.string(),  # of its weights: the approval is for these only
        "who": pa.string(),
        "why": pa.string(),
        "code": pa.string(),  # JSON: version and commit
        "at": pa.timestamp("us", tz="UTC"),
    }
)


@dataclass(frozen=True)
class Approval:
    """A row of `approvals`."""

    id: str
    model: str
    digest: str
    who: str
    why: str
    code: dict[str, Any]
    at: datetime


def approve(lake: Lake, trained: TrainedModel, why: str, who: str | None = None) -> Approval:
    """Add an approval of a model's weights. By default, `who` is the user who runs this."""
    at, who = datetime.now(UTC), who or getpass.getuser()
    id = hashlib.sha256(f"{trained.digest} {who} {at.isoformat()}".encode()).hexdigest()[:32]
    row = {"id": id, "model": trained.reference, "digest": trained.digest, "who": who, "why": why, "at": at}
    return _parse(append_row(lake, TABLE, APPROVALS, lambda table: {**row, "code": json.dumps(code_version())}))


def approval_of(lake: Lake, digest: str) -> Approval | None:
    """Return the newest approval of the weights with this digest, or None."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    approvals = [row for row in rows if row["digest"] == digest]
    return _parse(max(approvals, key=lambda row: row["at"])) if approvals else None


def _parse(row: dict[str, Any]) -> Approval:
    return Approval(**{**row, "code": json.loads(row["code"])})
