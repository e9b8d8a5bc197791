"""Dataset directories as bytes, to be compared."""

from pathlib import Path


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a dataset by name; not the report, which bears its folder's name."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
