"""The criteria of a dataset, the tables that they read, and a fingerprint that shows whether verdicts are up to date.

If a criterion (criteria.py) changes, only the verdicts are computed anew (judgement.py), and never the scores.
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

Cuts = dict[str, dict[str, list[Any]]]  # fingerprint up to a `Top` → group → the last kept value and id


@dataclass(frozen=True)
class Selection:
    """The criteria of a dataset, in order, and the scorers whose scores they can use.

    Attributes:
        dataset: the dataset's name.
        criteria: in the order of the recipe.
        scores: the scorers, keyed by their names in the recipe; and the scorers of usable vectors as `<name>_vectors`.
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
        """A hash that changes whenever a criterion, a scorer or an evaluation set changes, and only then."""
        return self.fingerprint_until(len(self.criteria))

    def fingerprint_until(self, count: int) -> str:
        """Return the fingerprint of the first `count` criteria together with all scorers."""
        criteria = [
            [type(criterion).__name__, criterion.model_dump(mode="json"), criterion.external_state()]
            for criterion in self.criteria[:count]
        ]
        tables = sorted((name, scorer.table) for name, scorer in self.scores.items())
        return hashlib.sha256(json.dumps([criteria, tables]).encode()).hexdigest()

    def tables(self) -> dict[str, str]:
        """Return the paths of the tables that are read, keyed by their names in SQL."""
        tables = {name: name for name in ("pairs", "images", "fetches")}
        return tables | {name: scorer.table for name, scorer in self.scores.items()}

    def inputs(self, lake: Lake) -> dict[str, Table]:
        """Open the tables that are read, keyed by their names in SQL. Tables that do not exist yet are made."""
        tables = {"pairs": lake.table_or_make("pairs", PAIRS), "images": lake.table_or_make("images", IMAGES)}
        tables["fetches"] = lake.table_or_make("fetches", FETCHES, ("id", "attempt"))
        return tables | {name: lake.table_or_make(scorer.table, scorer.schema) for name, scorer in self.scores.items()}

    def facts_sql(self, facts: Iterable[str]) -> str:
        """Return a SQL query with one row for each pair: its fetch status and the given facts.

        The query reads the tables of `tables()` and of `read_whole_lake`, but no table of scores that has none of these
        facts.
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
