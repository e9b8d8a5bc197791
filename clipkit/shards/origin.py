"""Where a derived dataset comes from, to be read."""

from clipkit.shards.dataset import Parent
from clipkit.tables import table


def origin_table(parent: Parent) -> str:
    """Return what a dataset was made from and how, and what was left out, as an aligned table."""
    settings = ", ".join(f"{name} {value}" for name, value in parent.settings.items() if value)
    made = f"made from {parent.name} by {parent.command}{f': {settings}' if settings else ''}"
    rows = [("samples", parent.samples), ("failures, not copied", parent.failures)]
    rows += [(f"left out: {cause}", count) for cause, count in parent.left_out.items()]
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in made)
    return table(rows, (printable, ""))
