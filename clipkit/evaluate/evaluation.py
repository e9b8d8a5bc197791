"""What an evaluation found, to print."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.errors import escaped
from clipkit.evaluate.caption_sets import HEADER as RETRIEVAL_HEADER
from clipkit.evaluate.caption_sets import Retrieved
from clipkit.evaluate.per_class import worst_lines
from clipkit.evaluate.sets import ZeroShotSet
from clipkit.evaluate.zero_shot import ZeroShotResult
from clipkit.tables import Cell, table

_HEADER = ("set", "images", "classes", "top-1", "95% interval", "top-5", "mean recall", "chance", "of")


@dataclass(frozen=True)
class Evaluation:
    """What one model scored on each set, and the lines about it that were added to `results_file`.

    `files` are the tables that were written.
    """

    scored: tuple[tuple[ZeroShotSet, ZeroShotResult], ...]
    records: tuple[dict[str, Any], ...]
    results_file: Path
    files: tuple[str, ...] = ()
    retrieved: tuple[Retrieved, ...] = ()

    @property
    def results(self) -> tuple[ZeroShotResult, ...]:
        """The zero-shot results alone."""
        return tuple(result for _, result in self.scored)

    def as_json(self) -> dict[str, Any]:
        """Return the lines of results.jsonl, and where that file is, and the tables."""
        written: dict[str, Any] = {"files": list(self.files)} if self.files else {}
        return {"results": list(self.records), "results_file": str(self.results_file), **written}

    def lines(self) -> str:
        """Return tables of the sets, the worst classes, and the pictures that could not be read."""
        lines = [table([_row(result) for result in self.results], _HEADER)] if self.scored else []
        for each, result in self.scored:
            lines += worst_lines(result.name, result.class_scores, each.classes)
            lines += [f"unreadable, left out of {result.name}: {escaped(path)}" for path in result.unreadable]
        if self.retrieved:
            lines.append(table([row for each in self.retrieved for row in each.rows()], RETRIEVAL_HEADER))
        for each_set in self.retrieved:
            lines += [
                f"unreadable, left out of {each_set.name}: {escaped(sample)}"
                for sample in each_set.unreadable
            ]
        tuned = [record["set"] for record in self.records if record["kind"] == "fine-tuned"]
        if tuned:
            lines.append(f"classified by the model's fine-tuned head, not by prompts: {', '.join(tuned)}")
        lines += [f"written: {file}" for file in self.files]
        return "\n".join([*lines, f"added to {self.results_file}"])


def _row(result: ZeroShotResult) -> tuple[Cell, ...]:
    low, high = result.top1_interval
    shares = (f"{result.top5:.2%}", f"{result.mean_per_class_recall:.2%}", f"{result.chance:.2%}")
    counts = (result.name, result.images, result.classes)
    return (
        *counts,
        f"{result.top1:.2%}",
        f"{low:.2%} - {high:.2%}",
        *shares,
        "a subset" if result.partial else "all",
    )
