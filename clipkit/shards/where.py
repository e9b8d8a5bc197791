"""A condition on the manifests' columns, in SQL, evaluated by DuckDB and kept from doing anything else.

The text is parsed first, and its tree must be one expression over columns: no statement, no subquery, no
aggregate, no function but those whose value follows from their arguments. The engine that evaluates it has no
files, no network, no settings to change, and so much memory (its own limit does not hold for long strings).
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from clipkit.errors import ConfigError
from clipkit.processes import at_most_more_memory

MEMORY_BYTES = 1_500_000_000
THREADS = 2
MOST_CHARACTERS = 10_000
_TABLE = "manifests"
_SETTINGS = {"threads": str(THREADS), "memory_limit": f"{MEMORY_BYTES}B", "temp_directory": ""}
_LOCKED = (
    "SET TimeZone = 'UTC'",  # not that of the machine
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_CLASSES = {
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "LAMBDA",
    "LAMBDA_REF",
    "OPERATOR",
    "TYPE",
}
# Written in SQL themselves, of functions whose value follows from their arguments.
_MACROS = "'if', 'nullif', 'fdiv', 'split_part', 'days_in_month', 'geomean', 'geometric_mean'"
_FUNCTIONS = f"""
SELECT DISTINCT function_name FROM duckdb_functions()
WHERE (function_type = 'scalar' AND stability = 'CONSISTENT' AND NOT starts_with(function_name, 'pg_')
       AND function_name NOT IN ('age', 'version'))
   OR (function_type = 'macro' AND (function_name IN ({_MACROS}) OR regexp_matches(function_name,
       '^(list|array|map)_')))
"""  # noqa: S608 (of constants)
_RESERVED = "SELECT 1 FROM duckdb_keywords() WHERE keyword_category = 'reserved' AND keyword_name = lower(?)"
# Of the moment or the session, where no column has such a name.
_VALUES = frozenset(
    {
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "localtime",
        "localtimestamp",
        "session_user",
        "user",
    }
)

Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]


class Where:
    """A condition over manifests with these columns; `columns` are those that it reads.

    Raises ConfigError, one line that names the columns, for what is no such condition.
    """

    def __init__(self, text: str, schema: pa.Schema):
        self._text = text
        self._schema = schema
        self._engine = duckdb.connect(":memory:", config=dict(_SETTINGS))
        for setting in _LOCKED:
            self._engine.execute(setting)
        tree = self._tree()
        names = {name.casefold() for name in _names(tree)}
        self._row = "row number"
        while self._row.casefold() in names | {name.casefold() for name in schema.names}:
            self._row += "_"
        self.columns = self._meant(set(_names(tree))) or [schema.names[0]]
        self.of(schema.empty_table())

    def of(self, manifests: pa.Table) -> Flags:
        """Tell for each row whether it fulfils the condition; null is no. Raises ConfigError as it says."""
        numbered = manifests.select(self.columns).append_column(
            self._row, pa.array(np.arange(len(manifests)))
        )
        flags = np.zeros(len(manifests), dtype=np.bool_)
        try:
            self._engine.register(_TABLE, numbered)
            query = f'SELECT "{self._row}" AS row FROM {_TABLE} WHERE (\n{self._text}\n)'  # noqa: S608
            rows = self._answer(query)
        except duckdb.Error as error:
            raise self._refused(str(error)) from None
        except MemoryError:
            raise self._refused(f"it takes more than {MEMORY_BYTES:,} bytes of memory") from None
        finally:
            self._engine.unregister(_TABLE)
        flags[rows] = True
        return flags

    def _answer(self, query: str) -> Rows:
        # From a thread: where the engine itself meets a signal, it swallows what the handler raises.
        with at_most_more_memory(MEMORY_BYTES), ThreadPoolExecutor(1) as thread:
            answer = thread.submit(lambda: self._engine.execute(query).fetchnumpy()["row"])
            try:
                return answer.result()
            except BaseException:
                self._engine.interrupt()
                raise

    def _meant(self, named: set[str]) -> list[str]:
        # To the engine, names that differ in case alone are one: it would take whichever column comes first.
        meant = []
        for column in self._schema.names:
            alike = [name for name in self._schema.names if name.casefold() == column.casefold()]
            spelled = [name for name in named if name.casefold() == column.casefold()]
            if spelled and len(alike) > 1 and (len(spelled) > 1 or spelled[0] not in alike):
                raise self._refused(f"of {' and '.join(alike)} it can name one, spelled as here")
            if spelled and (len(alike) == 1 or column == spelled[0]):
                meant.append(column)
        return meant

    def _tree(self) -> Any:
        if not self._text.strip() or len(self._text) > MOST_CHARACTERS:
            raise self._refused(f"expected 1 to {MOST_CHARACTERS:,} characters, found {len(self._text):,}")
        tree, shape = self._parsed(self._text)
        if shape != self._parsed("true")[1]:
            raise self._refused("expected one expression, found a statement")
        allowed = {name for (name,) in self._engine.execute(_FUNCTIONS).fetchall()}
        columns = {name.casefold() for name in self._schema.names}
        values = _VALUES - columns
        for kind, name in _expressions(tree):
            if kind not in _CLASSES:
                raise self._refused(f"a condition cannot have a {kind.lower()} in it")
            if kind == "FUNCTION" and name not in allowed:
                raise self._refused(
                    f"there is no function {name}() whose value follows from its arguments alone"
                )
            if kind == "COLUMN_REF" and name == _TABLE and name not in columns:  # some of them, as one value
                raise self._refused(f"there is no column {name}")
            if kind == "COLUMN_REF" and name in values:
                raise self._refused(f"there is no column {name}, and its value is not the same every time")
        return tree

    def _parsed(self, text: str) -> tuple[Any, Any]:
        """Return the tree of a condition, and that of the statement around it, which all have in common."""
        query = f"SELECT 1 FROM {_TABLE} WHERE (\n{text}\n)"  # noqa: S608 (it is only parsed)
        try:
            found = self._engine.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
            statement = json.loads(found[0]) if found else {}
            if statement.get("error", True) or len(statement["statements"]) != 1:
                raise self._refused(statement.get("error_message") or "expected one expression")
            node = statement["statements"][0]["node"]
            return node.pop("where_clause", None), node
        except duckdb.Error as error:
            raise self._refused(str(error)) from None
        except RecursionError:
            raise self._refused("it is nested too deeply") from None

    def _refused(self, why: str) -> ConfigError:
        lines = [line for line in why.splitlines() if line and not line.startswith("LINE ")]
        return ConfigError(
            f"--where: expected a condition in SQL on the columns {', '.join(self._schema.names)}; "
            f"found {self._text[:200]!r}: {lines[0] if lines else why}{self._to_quote()}"
        )

    def _to_quote(self) -> str:
        """Return what to say of a column that is called like a word of SQL, and is used as one."""
        for name in self._schema.names:
            is_bare = re.search(rf'(?<![\w"]){re.escape(name)}(?![\w"])', self._text, re.IGNORECASE)
            with suppress(duckdb.Error):  # of an engine that ended by what is refused
                if is_bare and self._engine.execute(_RESERVED, [name]).fetchone():
                    return f'; the column {name} has the name of a word of SQL: write "{name}"'
        return ""


def _expressions(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the class of each expression in a tree, and the function's name or the column's."""
    if isinstance(tree, dict):
        if "class" in tree:
            name = tree.get("function_name") or ".".join(tree.get("column_names", ()))
            yield tree["class"], str(name).casefold()
        elif "node" in tree or "from_table" in tree:
            yield "SUBQUERY", ""
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            yield from _expressions(inner)


def _names(tree: Any) -> Iterator[str]:
    """Yield what may be a column's name: each part of a dotted one."""
    if isinstance(tree, dict):
        yield from tree.get("column_names", ())
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            yield from _names(inner)
