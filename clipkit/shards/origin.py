"""Where a derived dataset comes from, to be read."""

from typing import Any

from clipkit.shards.dataset import Parent
from clipkit.tables import table


def made_from(parent: Parent) -> str:
    """Return in a line what a dataset was made from and how."""
    known = {name: _words(value) for name, value in parent.settings.items()}
    settings = ", ".join(f"{name} {words}" for name, words in known.items() if words)
    return f"made from {parent.name} by {parent.command}{f': {settings}' if settings else ''}"


def _words(setting: Any) -> str:
    if isinstance(setting, list):  # of other datasets, each with its fingerprint
        return " and ".join(
            str(each.get("name")) if isinstance(each, dict) else str(each) for each in setting
        )
    return "" if setting is None else str(setting)


def origin_table(parent: Parent) -> str:
    """Return what a dataset was made from and how, and what was left out, as an aligned table."""
    rows = [("samples", parent.samples), ("failures, not copied", parent.failures)]
    rows += [(f"left out: {cause}", count) for cause, count in parent.left_out.items()]
    return table(rows, (made_from(parent), ""))
