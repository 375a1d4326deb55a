"""DuckDB over Arrow tables and datasets by name, and how names and texts are quoted in its SQL."""

import os
from collections.abc import Iterable
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.ipc


def query(sql: str, /, **tables: object) -> pa.Table:
    """Run DuckDB's SQL over Arrow tables and datasets by name."""
    with _database(os.getpid()).cursor() as connection:  # which sees no other's names
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """One for each process: making it takes ten times as long as a small query."""
    database = duckdb.connect()
    database.execute("SET preserve_insertion_order = false")
    return database


def quote_name(fact: str) -> str:
    """A fact as SQL."""
    return '"' + fact.replace('"', '""') + '"'


def quote_text(value: str) -> str:
    """A text as SQL."""
    return "'" + value.replace("'", "''") + "'"


def quote_texts(values: Iterable[str]) -> str:
    return ", ".join(map(quote_text, values))
