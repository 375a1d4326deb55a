"""Which model of a name is its champion: the table `registry`, to which every decision is added and none is changed.

The champion follows from the decisions. Each is committed on the state that it was made on: of two at once one lands,
and the other is told what happened meanwhile.
"""

import getpass
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from data.lake.lake import Lake
from data.lake.lineage import code_version
from data.lake.schemas import bucket_of
from data.lake.table import Table, write_file
from imagen.errors import ChampionChanged, ModelNotFound

TABLE = "registry"
DECISIONS = pa.schema(
    {
        "id": pa.string(),  # of name and sequence
        "name": pa.string(),
        "sequence": pa.int32(),
        "act": pa.string(),  # promote, reject, ask or rollback
        "number": pa.int32(),  # the model that was judged, or that is champion again
        "champion": pa.int32(),  # after it
        "who": pa.string(),
        "why": pa.string(),
        "reasons": pa.string(),  # JSON: what the gate found
        "code": pa.string(),  # JSON: version and commit
        "at": pa.timestamp("us", tz="UTC"),
    }
)
Act = Literal["promote", "reject", "ask", "rollback"]


@dataclass(frozen=True)
class Decision:
    """A row of `registry`."""

    id: str
    name: str
    sequence: int
    act: Act
    number: int
    champion: int | None
    who: str
    why: str
    reasons: list[dict[str, Any]]
    code: dict[str, Any]
    at: datetime


def decisions(lake: Lake, name: str | None = None) -> list[Decision]:
    """Of all models or those of one name, in order."""
    table = lake.find(TABLE)
    return _read(table, name) if table else []


def champion_of(past: Sequence[Decision]) -> int | None:
    """The number that the last of a name's decisions leaves as champion."""
    return past[-1].champion if past else None


def champions_of(past: Sequence[Decision]) -> list[int]:
    """The champion, after those that it took the place of: the way back."""
    way: list[int] = []
    for one in past:
        if one.act == "promote":
            way.append(one.number)
        elif one.act == "rollback":
            way.pop()
    return way


def rival_of(past: Sequence[Decision], number: int) -> int | None:
    """Whom a model is held against: the champion, or if it is that itself the one before."""
    way = [one for one in champions_of(past) if one != number]
    return way[-1] if way else None


def state_of(past: Sequence[Decision], number: int) -> str:
    """candidate, champion, or retired: it was champion once."""
    if champion_of(past) == number:
        return "champion"
    return "retired" if any(one.act == "promote" and one.number == number for one in past) else "candidate"


def decide(
    lake: Lake,
    name: str,
    act: Act,
    number: int,
    seen: int | None,
    why: str,
    reasons: str = "[]",
    who: str | None = None,
) -> Decision:
    """Add a decision that was made while `seen` was champion."""
    while True:
        table = lake.table_or_make(TABLE, DECISIONS)
        past = _read(table, name)
        now = champion_of(past)
        if now != seen:
            last = next(one for one in reversed(past) if one.act in ("promote", "rollback"))
            against = f"{name}/{seen}" if seen else "none"
            raise ChampionChanged(
                f"{name}/{now} became champion meanwhile, by {last.who} at {last.at:%Y-%m-%d %H:%M:%S}: {last.why}. "
                f"{name}/{number} was held against {against}: nothing is changed, run it again"
            )
        sequence = len(past) + 1
        row: dict[str, Any] = {
            "id": hashlib.sha256(f"{name}/{sequence}".encode()).hexdigest()[:32],
            "name": name,
            "sequence": sequence,
            "act": act,
            "number": number,
            "champion": number if act in ("promote", "rollback") else now,
            "who": who or getpass.getuser(),
            "why": why,
            "reasons": reasons,
            "code": json.dumps(code_version()),
            "at": datetime.now(UTC),
        }
        rows = pa.table({column: [value] for column, value in row.items()}).cast(DECISIONS)
        file = write_file(table.url, bucket_of(row["id"], lake.config.buckets), rows)
        if table.replace([file], [], {"model": f"{name}/{number}", "act": act}):
            return _read(table, name)[-1]


def rollback(lake: Lake, name: str, why: str, who: str | None = None) -> Decision:
    """The champion before this one is champion again."""
    past = decisions(lake, name)
    way = champions_of(past)
    if not way:
        raise ModelNotFound(f"{name} has no champion in {lake.url}; make one: imagen promote {name}/NUMBER")
    if len(way) == 1:
        raise ModelNotFound(f"{name}/{way[0]} is the first champion of {name}: there is none before it")
    return decide(lake, name, "rollback", way[-2], way[-1], why, who=who)


def _read(table: Table, name: str | None) -> list[Decision]:
    rows = table.dataset().to_table().to_pylist()
    read = ({**row, "reasons": json.loads(row["reasons"]), "code": json.loads(row["code"])} for row in rows)
    return sorted(
        (Decision(**row) for row in read if name in (None, row["name"])), key=lambda one: (one.name, one.sequence)
    )
