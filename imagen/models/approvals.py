"""A person's word that a model may become champion: a row of `approvals`, tied to the weights by their digest."""

import getpass
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from data.lake.lake import Lake
from data.lake.lineage import code_version
from data.lake.schemas import bucket_of
from data.lake.table import write_file
from imagen.models.table import Trained

TABLE = "approvals"
APPROVALS = pa.schema(
    {
        "id": pa.string(),
        "model": pa.string(),  # as it was called
        "digest": pa.string(),  # of its weights: the word is for these alone
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


def approve(lake: Lake, trained: Trained, why: str, who: str | None = None) -> Approval:
    at, who = datetime.now(UTC), who or getpass.getuser()
    id = hashlib.sha256(f"{trained.digest} {who} {at.isoformat()}".encode()).hexdigest()[:32]
    said = {"id": id, "model": trained.reference, "digest": trained.digest, "who": who, "why": why, "at": at}
    rows = pa.Table.from_pylist([{**said, "code": json.dumps(code_version())}], APPROVALS)
    table = lake.table_or_make(TABLE, APPROVALS)
    table.append([write_file(table.url, bucket_of(id, lake.config.buckets), rows)])
    found = approval_of(lake, trained.digest)
    assert found is not None
    return found


def approval_of(lake: Lake, digest: str) -> Approval | None:
    """The newest word on these weights, if anybody gave one."""
    table = lake.find(TABLE)
    rows = table.dataset().to_table().to_pylist() if table else []
    own = sorted((row for row in rows if row["digest"] == digest), key=lambda row: row["at"])
    return Approval(**{**own[-1], "code": json.loads(own[-1]["code"])}) if own else None
