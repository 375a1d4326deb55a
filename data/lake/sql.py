"""Runs DuckDB queries over Arrow tables and datasets, and quotes names and texts for SQL."""

import os
from collections.abc import Iterable
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.ipc


def query(sql: str, /, **tables: object) -> pa.Table:
    """Run SQL in DuckDB. The result is in no particular order unless the SQL orders it.

    Args:
        tables: Arrow tables and datasets, keyed by the names that the SQL uses.

    Example:
        >>> query("SELECT count(*) AS rows FROM pairs", pairs=lake.table("pairs").dataset())
    """
    with _database(os.getpid()).cursor() as connection:  # a cursor does not see the names of other cursors
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Return this process's database. It is cached, because opening one takes ten times as long as a small query."""
    database = duckdb.connect()
    database.execute("SET preserve_insertion_order = false")
    return database


def quote_name(name: str) -> str:
    """Quote the name of a column or table as a SQL identifier, in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Quote a text as a SQL literal: `it's` becomes `'it''s'`."""
    return "'" + text.replace("'", "''") + "'"


def quote_texts(texts: Iterable[str]) -> str:
    """Quote texts as SQL literals, separated by commas."""
    return ", ".join(map(quote_text, texts))
