"""Where a derived dataset comes from, to be read."""

from clipkit.shards.dataset import Parent
from clipkit.tables import table


def made_from(parent: Parent) -> str:
    """Return in a line what a dataset was made from and how."""
    settings = ", ".join(f"{name} {value}" for name, value in parent.settings.items() if value is not None)
    return f"made from {parent.name} by {parent.command}{f': {settings}' if settings else ''}"


def origin_table(parent: Parent) -> str:
    """Return what a dataset was made from and how, and what was left out, as an aligned table."""
    rows = [("samples", parent.samples), ("failures, not copied", parent.failures)]
    rows += [(f"left out: {cause}", count) for cause, count in parent.left_out.items()]
    return table(rows, (made_from(parent), ""))
