"""Plain aligned tables: the same on a terminal, in a file and in a log."""

from collections.abc import Sequence

from clipkit.errors import escaped

Cell = str | int | float | None


def table(rows: Sequence[Sequence[Cell]], header: Sequence[str] | None = None) -> str:
    """Return the rows as aligned columns, numbers to the right; a float is shown to two decimals."""
    cells = [[_text(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    numeric = [all(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        aligned = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else escaped(cell)


def size(count: int) -> str:
    """Return a number of bytes in the largest decimal unit that keeps it at 1 or above: "3.1 MB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
