"""What a repair did, and what it could not bring back."""

from pathlib import Path
from typing import Any, NamedTuple

from clipkit.errors import DatasetError
from clipkit.tables import table


class RepairResult(NamedTuple):
    """The files that were made anew, those left out of the index, with why, and those that are `doubtful`:
    they can be read but are not as they were written, and nothing tells which of their values is wrong.

    `lost` samples are failures now, with the reason "lost"; of `unnamed` more it is not known which records
    they were of, of `unknown` samples that are there neither. `unlisted` files lie there and do not count.
    """

    directory: Path
    remade: list[str]
    left_out: list[str]
    doubtful: list[str]
    lost: int
    unnamed: int
    unknown: int
    unlisted: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing or doubtful."""
        return not (self.left_out or self.doubtful or self.lost or self.unnamed or self.unlisted)

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {**self._asdict(), "directory": str(self.directory), "ok": self.ok}

    def lines(self) -> str:
        """Return what was done, and what is left to do."""
        said = [f"left out: {why}" for why in self.left_out]
        said += [f"doubtful: {what}" for what in self.doubtful]
        if self.unlisted:
            said += [f"does not count: {name}" for name in self.unlisted]
            said += ["Files that do not count stay until the next ingest into this directory removes them:"]
            said += ["move away what you want to keep, such as the readable pictures of a broken tar."]
        counts = [("made anew", ", ".join(self.remade) or "nothing"), ("samples lost", f"{self.lost:,}")]
        if self.lost:
            counts[-1] = ("samples lost", f"{self.lost:,}: failures now, --retry-failed fetches them again")
        if self.unnamed:
            counts += [("records lost", f"{self.unnamed:,}: which ones cannot be told")]
        if self.unknown:
            counts += [("samples kept", f"{self.unknown:,} of unknown source records, without URLs")]
        return "\n".join([*said, *([""] if said else []), table(counts)])

    def check(self) -> None:
        """Raise DatasetError, one line, if anything is missing."""
        if not self.ok:
            raise DatasetError(
                f"{self.directory}: repaired as far as can be; {len(self.left_out):,} files are left out, "
                f"{len(self.doubtful):,} are doubtful, "
                f"{self.lost + self.unnamed:,} samples are lost, {len(self.unlisted):,} files do not count"
            )
