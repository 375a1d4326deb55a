"""The table `registry`, whose decisions say which model of a name is champion. Decisions are only ever added.

The champion follows from the decisions. A decision is committed only if the table has not changed since the decision
was made. If two decisions are made at the same time, one is committed, and the other raises ChampionChanged.
"""

import getpass
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from data.lake.append import append_row
from data.lake.lake import Lake
from data.lake.lineage import code_version
from data.lake.table import Table
from imagen.errors import ChampionChanged, ModelNotFound

TABLE = "registry"
DECISIONS = pa.schema(
    {
        "id": pa.string(),  # of name and sequence
        "name": pa.string(),
        "sequence": pa.int32(),
        "act": pa.string(),  # promote, reject, ask or rollback
        "number": pa.int32(),  # the model that was judged, or that is champion again
        "champion": pa.int32(),  # after the decision
        "who": pa.string(),
        "why": pa.string(),
        "reasons": pa.string(),  # JSON: the gate's results
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
    """Return the decisions on the models of one name, or on all models, oldest first."""
    table = lake.find(TABLE)
    return _read(table, name) if table else []


def champion_of(history: Sequence[Decision]) -> int | None:
    """Return the number of the champion after all decisions on a name; None before the first promotion."""
    return history[-1].champion if history else None


def champions_of(history: Sequence[Decision]) -> list[int]:
    """Return the champion, preceded by the champions that a rollback would return to, oldest first."""
    champions: list[int] = []
    for decision in history:
        if decision.act == "promote":
            champions.append(decision.number)
        elif decision.act == "rollback":
            champions.pop()
    return champions


def rival_of(history: Sequence[Decision], number: int) -> int | None:
    """Return the model that a candidate is compared with: the champion, or the previous one for a champion."""
    others = [champion for champion in champions_of(history) if champion != number]
    return others[-1] if others else None


def state_of(history: Sequence[Decision], number: int) -> str:
    """Return a model's state: `champion`, `retired` (it was champion before), or `candidate`."""
    if champion_of(history) == number:
        return "champion"
    was_promoted = any(decision.act == "promote" and decision.number == number for decision in history)
    return "retired" if was_promoted else "candidate"


def add_decision(
    lake: Lake,
    name: str,
    act: Act,
    number: int,
    expected_champion: int | None,
    why: str,
    reasons: str = "[]",
    who: str | None = None,
) -> Decision:
    """Add a decision on the model NAME/NUMBER.

    Args:
        expected_champion: the champion's number when the decision was made.
        reasons: the gate's results, as JSON.
        who: by default the user who runs this.

    Raises:
        ChampionChanged: the champion is not the expected one any more; nothing was added.
    """

    def make_row(table: Table) -> dict[str, Any]:
        history = _read(table, name)
        champion = champion_of(history)
        if champion != expected_champion:
            raise ChampionChanged(_champion_changed(history, name, number, expected_champion))
        sequence = len(history) + 1
        return {
            "id": hashlib.sha256(f"{name}/{sequence}".encode()).hexdigest()[:32],
            "name": name,
            "sequence": sequence,
            "act": act,
            "number": number,
            "champion": number if act in ("promote", "rollback") else champion,
            "who": who or getpass.getuser(),
            "why": why,
            "reasons": reasons,
            "code": json.dumps(code_version()),
            "at": datetime.now(UTC),
        }

    return _parse(append_row(lake, TABLE, DECISIONS, make_row, lambda row: {"model": f"{name}/{number}", "act": act}))


def rollback(lake: Lake, name: str, why: str, who: str | None = None) -> Decision:
    """Make the previous champion the champion again.

    Raises:
        ModelNotFound: the name has no champion, or no champion before this one.
        ChampionChanged: another decision was added at the same time.
    """
    champions = champions_of(decisions(lake, name))
    if not champions:
        raise ModelNotFound(f"{name} has no champion in {lake.url}; make one: imagen promote {name}/NUMBER")
    if len(champions) == 1:
        raise ModelNotFound(f"{name}/{champions[0]} is the first champion of {name}: there is none before it")
    return add_decision(lake, name, "rollback", champions[-2], champions[-1], why, who=who)


def _champion_changed(history: Sequence[Decision], name: str, number: int, expected: int | None) -> str:
    last = next(decision for decision in reversed(history) if decision.act in ("promote", "rollback"))
    compared = f"{name}/{expected}" if expected else "no champion"
    return (
        f"{name}/{last.number} became champion at {last.at:%Y-%m-%d %H:%M:%S} by {last.who}: {last.why}. "
        f"{name}/{number} was compared with {compared}, so nothing was changed: run it again"
    )


def _read(table: Table, name: str | None) -> list[Decision]:
    rows = table.dataset().to_table().to_pylist()
    history = [_parse(row) for row in rows if name in (None, row["name"])]
    return sorted(history, key=lambda decision: (decision.name, decision.sequence))


def _parse(row: dict[str, Any]) -> Decision:
    return Decision(**{**row, "reasons": json.loads(row["reasons"]), "code": json.loads(row["code"])})
