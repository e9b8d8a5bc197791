"""CSV tables that an evaluation writes beside its results: a row a class, and a row a picture."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from clipkit import atomic
from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import NAME_SEPARATOR
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.sets import ZeroShotSet
from clipkit.evaluate.zero_shot import ZeroShotResult

Row: TypeAlias = Sequence[str | int | float]
RowsOf: TypeAlias = Callable[[ZeroShotSet, ZeroShotResult], Iterator[Row]]

CLASS_COLUMNS = (
    *("set", "label", "folder", "names", "images", "top1", "top5"),
    *("taken_for", "taken_for_names", "taken_for_share"),
)
PICTURE_COLUMNS = (
    *("set", "picture", "label", "folder", "predicted", "predicted_folder"),
    *("similarity", "label_similarity", "top5"),
)


class Tables:
    """The files that a configuration asks for, with the rows of all sets evaluated so far.

    `check_outputs` has looked at them.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        wanted: list[tuple[Path | None, Row, RowsOf]] = [
            (config.per_class, CLASS_COLUMNS, class_rows),
            (config.predictions, PICTURE_COLUMNS, picture_rows),
        ]
        self._wanted = [(path, columns, rows) for path, columns, rows in wanted if path]
        self._scored: list[tuple[ZeroShotSet, ZeroShotResult]] = []

    @property
    def files(self) -> list[str]:
        """Where they are."""
        return [str(path) for path, _, _ in self._wanted]

    def add(self, each: ZeroShotSet, result: ZeroShotResult) -> None:
        """Replace the files by those with this set's rows, too. Raises EvaluationError (a full disk, say)."""
        self._scored.append((each, result))
        for path, columns, rows_of in self._wanted:
            try:
                with atomic.replaced(path) as temporary:
                    self._write(temporary, columns, rows_of)
            except OSError as error:
                raise EvaluationError(f"{path}: cannot be written, {error.strerror}") from error

    def _write(self, path: Path, columns: Row, rows_of: RowsOf) -> None:
        # A file's name may be no UTF-8: it stands in the table as it is on disk.
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for each, result in self._scored:
                writer.writerows(rows_of(each, result))


def class_rows(each: ZeroShotSet, result: ZeroShotResult) -> Iterator[Row]:
    """Rows of `CLASS_COLUMNS`, by label, of the classes that have pictures; shares are of a class's own."""
    classes = each.classes
    for score in result.class_scores:
        names = (NAME_SEPARATOR.join(classes.names[score.label]), score.images, score.top1, score.top5)
        row: Row = (result.name, score.label, classes.folders[score.label], *names)
        if not score.mistakes:
            yield (*row, "", "", 0.0)
        for other, count in score.mistakes[:1]:
            others = NAME_SEPARATOR.join(classes.names[other])
            yield (*row, classes.folders[other], others, count / score.images)


def picture_rows(each: ZeroShotSet, result: ZeroShotResult) -> Iterator[Row]:
    """Rows of `PICTURE_COLUMNS` in the set's order, of the pictures that could be read.

    The similarities are cosines, with the nearest class and with the picture's own; `top5` lists the labels
    of the nearest classes, nearest first.
    """
    folders, found = each.classes.folders, result.predictions
    for place in found.read_K.nonzero()[0].tolist():
        label, nearest = int(found.labels_K[place]), found.top_KT[place].tolist()
        yield (
            *(result.name, each.images.pictures.place(place), label, folders[label]),
            *(nearest[0], folders[nearest[0]]),
            *(str(found.similarity_K[place]), str(found.label_similarity_K[place])),
            " ".join(map(str, nearest)),
        )
