"""Which pairs are kept, and every reason why not: SQL over the facts, into `verdicts/<dataset>`. Touches no pixel.

Scores are facts, thresholds are opinions: a criterion is a small declarative model that compiles to one SQL
predicate with a reason. A changed threshold changes only this table.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.lake import Lake
from data.pairs import FETCHES, IMAGES, PAIRS, VERDICTS
from data.stage import query
from data.table import Table, write_file

FACTS = {
    "words": "len(regexp_extract_all(caption, '\\S+'))",
    "characters": "length(trim(caption))",
    "width": "original_width",
    "height": "original_height",
    "side": "least(original_width, original_height)",
    "aspect": "greatest(original_width, original_height) / least(original_width, original_height)",
}


class Criterion(BaseModel):
    """Bounds of one fact; both are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, description="drop what is below")
    max: float | None = Field(None, description="drop what is above")

    @model_validator(mode="after")
    def _bounds(self) -> "Criterion":
        if self.min is None and self.max is None:
            raise ValueError("a criterion needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def reason(self, fact: str) -> str:
        """SQL: why a row is dropped, or null. An image's row that lacks the fact is not kept by silence."""
        cases = [f"WHEN {fact} IS NULL THEN '{fact} unknown'"]
        if self.min is not None:
            cases.append(f"WHEN {fact} < {self.min!r} THEN '{fact} < {self.min:g}'")
        if self.max is not None:
            cases.append(f"WHEN {fact} > {self.max!r} THEN '{fact} > {self.max:g}'")
        return f"CASE WHEN sha256 IS NULL THEN NULL {' '.join(cases)} END"


FETCH_REASON = "CASE WHEN sha256 IS NULL THEN 'not fetched: ' || coalesce(status, 'pending') END"


@dataclass(frozen=True)
class Selection:
    """The criteria of a dataset, in order, over the score tables that they may ask."""

    dataset: str
    criteria: tuple[tuple[str, Criterion], ...]
    scores: Mapping[str, tuple[str, tuple[str, ...]]]  # name in the recipe → its table and columns

    @property
    def table(self) -> str:
        return f"verdicts/{self.dataset}"

    @property
    def fingerprint(self) -> str:
        """Changes with any opinion or scorer, and with nothing else."""
        said = [[fact, criterion.model_dump()] for fact, criterion in self.criteria]
        return hashlib.sha256(json.dumps([said, sorted(self.scores.items())]).encode()).hexdigest()

    def inputs(self, lake: Lake) -> dict[str, Table]:
        tables = {"pairs": lake.table_or_make("pairs", PAIRS), "images": lake.table_or_make("images", IMAGES)}
        tables["fetches"] = lake.table_or_make("fetches", FETCHES, ("id", "attempt"))
        return tables | {name: lake.table(table) for name, (table, _) in self.scores.items()}

    def facts(self) -> str:
        """SQL: one row a pair with every fact that a criterion may name."""
        scored = [f"{n}.{c} AS {n}_{c}" for n, (_, columns) in self.scores.items() for c in columns]
        derived = [f"{sql} AS {fact}" for fact, sql in FACTS.items()]
        joins = "".join(f" LEFT JOIN {name} ON {name}.id = pairs.id" for name in self.scores)
        return (
            f"SELECT pairs.id, images.sha256, last.status, {', '.join([*derived, *scored])} FROM pairs "
            "LEFT JOIN images ON images.id = pairs.id LEFT JOIN "
            "(SELECT id, arg_max(status, attempt) AS status FROM fetches GROUP BY id) last ON last.id = pairs.id"
            + joins
        )

    def verdicts(self, lake: Lake, inputs: dict[str, Table], bucket: int) -> pa.Table:
        reasons = [FETCH_REASON, *(criterion.reason(fact) for fact, criterion in self.criteria)]
        found = query(
            f"WITH facts AS ({self.facts()}), judged AS (SELECT id, "
            f"list_filter([{', '.join(reasons)}], lambda reason: reason IS NOT NULL) AS reasons FROM facts) "
            "SELECT id, len(reasons) = 0 AS kept, reasons FROM judged ORDER BY id",
            **{name: table.dataset(bucket) for name, table in inputs.items()},
        )
        return found.cast(VERDICTS)


def select(lake: Lake, selection: Selection) -> bool:
    """Bring the verdicts up to date. False if they already were: same criteria, same state of every table asked."""
    while True:
        verdicts = lake.table_or_make(selection.table, VERDICTS)
        inputs = selection.inputs(lake)
        state = {"selection": selection.fingerprint, "inputs": {t.name: t.version for t in inputs.values()}}
        if verdicts.record() == state:
            return False
        add, remove = [], []
        for bucket in lake.buckets:
            new = selection.verdicts(lake, inputs, bucket)
            old = verdicts.dataset(bucket).to_table().sort_by("id")
            if not new.equals(old.cast(VERDICTS)):
                remove += [path for path, (of, _) in verdicts.files().items() if of == bucket]
                add += [write_file(verdicts.url, bucket, new)] if new.num_rows else []
        if verdicts.replace(add, remove, state):
            return True
