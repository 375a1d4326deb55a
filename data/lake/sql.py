"""DuckDB queries over Arrow tables and datasets, and quoting of names and texts in their SQL."""

import os
from collections.abc import Iterable
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.ipc


def query(sql: str, /, **tables: object) -> pa.Table:
    """Run SQL in DuckDB. Rows come in any order unless the SQL orders them.

    Args:
        tables: Arrow tables and datasets, under the names that the SQL uses.

    Example:
        >>> query("SELECT count(*) AS rows FROM pairs", pairs=lake.table("pairs").dataset())
    """
    with _database(os.getpid()).cursor() as connection:  # a cursor does not see the names of other cursors
        for name, table in tables.items():
            connection.register(name, table)
        return connection.sql(sql).to_arrow_table()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """The database of this process: opening one takes ten times as long as a small query."""
    database = duckdb.connect()
    database.execute("SET preserve_insertion_order = false")
    return database


def quote_name(name: str) -> str:
    """The name of a column or table as an SQL identifier, in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """A text as an SQL literal: `it's` becomes `'it''s'`."""
    return "'" + text.replace("'", "''") + "'"


def quote_texts(texts: Iterable[str]) -> str:
    """Texts as SQL literals, separated by commas."""
    return ", ".join(map(quote_text, texts))
