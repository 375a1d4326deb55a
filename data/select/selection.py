"""The criteria of a dataset, the tables that they read, and the fingerprint that says whether verdicts are up to date.

Scores are facts, thresholds are opinions: a changed criterion (criteria.py) changes only the verdicts. How they are
computed is in judgement.py.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, PAIRS
from data.lake.sql import quote_name
from data.lake.table import Table
from data.scorers.scorer import Scorer
from data.select.criteria import EXTRA_PREFIX, Criterion
from data.select.facts import FACTS, extra_sql

Cuts = dict[str, dict[str, list[Any]]]  # for each `Top` by fingerprint, for each group: the last kept value and id


@dataclass(frozen=True)
class Selection:
    """The criteria of a dataset, in order, and the scorers whose scores they can use.

    Attributes:
        dataset: the dataset's name.
        criteria: in the order of the recipe.
        scores: the scorers by their names in the recipe, and `<name>_vectors` for those whose vectors can be used.
    """

    dataset: str
    criteria: tuple[Criterion, ...]
    scores: Mapping[str, Scorer]

    @property
    def table(self) -> str:
        """The name of the table of verdicts."""
        return f"verdicts/{self.dataset}"

    @property
    def fingerprint(self) -> str:
        """Changes with every criterion, scorer and evaluation set, and with nothing else."""
        return self.fingerprint_until(len(self.criteria))

    def fingerprint_until(self, count: int) -> str:
        """The fingerprint of the first `count` criteria, over all scorers."""
        criteria = [
            [type(criterion).__name__, criterion.model_dump(mode="json"), criterion.external_state()]
            for criterion in self.criteria[:count]
        ]
        tables = sorted((name, scorer.table) for name, scorer in self.scores.items())
        return hashlib.sha256(json.dumps([criteria, tables]).encode()).hexdigest()

    def tables(self) -> dict[str, str]:
        """The tables that are read, by their names in SQL."""
        tables = {name: name for name in ("pairs", "images", "fetches")}
        return tables | {name: scorer.table for name, scorer in self.scores.items()}

    def inputs(self, lake: Lake) -> dict[str, Table]:
        """The same tables, opened; those that do not exist yet are made."""
        tables = {"pairs": lake.table_or_make("pairs", PAIRS), "images": lake.table_or_make("images", IMAGES)}
        tables["fetches"] = lake.table_or_make("fetches", FETCHES, ("id", "attempt"))
        return tables | {name: lake.table_or_make(scorer.table, scorer.schema) for name, scorer in self.scores.items()}

    def facts_sql(self, facts: Iterable[str]) -> str:
        """SQL that gives one row for each pair, with its fetch status and some facts.

        It reads the tables of `tables()` and of `read_whole_lake`; tables of scores without one of these facts are
        not read.
        """
        wanted = set(facts)
        columns = [f"{sql} AS {fact}" for fact, sql in FACTS.items() if fact in wanted]
        extra = sorted(fact for fact in wanted if fact.startswith(EXTRA_PREFIX))
        columns += [f"{extra_sql(fact)} AS {quote_name(fact)}" for fact in extra]
        joins = " LEFT JOIN often ON often.digest = md5(pairs.caption)" if "caption_seen" in wanted else ""
        for table, scorer in self.scores.items():
            scores = [column for column in scorer.columns.names if f"{table}_{column}" in wanted]
            columns += [f"{table}.{column} AS {table}_{column}" for column in scores]
            joins += f" LEFT JOIN {table} ON {table}.id = pairs.id" if scores else ""
        return (
            "SELECT pairs.id, first_seen, images.sha256, last.status, replaced.replaced_by"
            f"{''.join(f', {column}' for column in columns)} FROM pairs LEFT JOIN replaced ON replaced.id = pairs.id "
            "LEFT JOIN images ON images.id = pairs.id LEFT JOIN "
            "(SELECT id, arg_max(status, attempt) AS status FROM fetches GROUP BY id) last ON last.id = pairs.id"
            + joins
        )
