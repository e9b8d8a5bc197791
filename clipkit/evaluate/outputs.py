"""The files that an evaluation writes, checked before any work: nothing that it reads is written over."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.caption_sets import CaptionSet
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ground_truth import devkit_beside
from clipkit.evaluate.results import results_path
from clipkit.evaluate.sets import ZeroShotSet
from clipkit.evaluate.tables import CLASS_COLUMNS, PICTURE_COLUMNS
from clipkit.lines import JsonLines
from clipkit.model.identity import resolved


def check_outputs(
    config: EvaluateConfig, sets: Sequence[ZeroShotSet], pairs: Sequence[CaptionSet], checkpoint: Path
) -> None:
    """Raise EvaluationError for a file that could not be written, or that is needed as it is."""
    models = checkpoint, resolved(checkpoint)
    needed = [*_read(config, sets, pairs), *models]
    if config.results is not None:
        _check("--results", config.results, needed)
    results = [config.results] if config.results else map(results_path, models)
    needed += results
    tables = (
        ("--per-class", config.per_class, CLASS_COLUMNS),
        ("--predictions", config.predictions, PICTURE_COLUMNS),
    )
    for option, path, columns in tables:
        if path is not None:
            _check(option, path, needed)
            _check_is_table(option, path, columns)


def _check_is_table(option: str, path: Path, columns: Sequence[str]) -> None:
    header = ",".join(columns).encode()
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(len(header))
    if start and start != header:
        raise EvaluationError(
            f"{option} {path}: expected a new name, or such a table to replace, found something else there; "
            "give another name"
        )


def results_lines(path: Path, config: EvaluateConfig) -> JsonLines:
    """Return the lines at `path`. Raises EvaluationError, naming --results, if none can be added there."""
    lines = JsonLines(path, EvaluationError)
    try:
        lines.check()
    except EvaluationError as error:
        if config.results:
            raise
        raise EvaluationError(f"{error}; --results FILE puts them elsewhere") from error
    return lines


def _read(
    config: EvaluateConfig, sets: Sequence[ZeroShotSet], pairs: Sequence[CaptionSet]
) -> Iterator[str | Path]:
    paths = [config.imagenet_val, config.imagenet_labels, config.imagenet_v2, config.folder, config.classes]
    for each in (*paths, config.val_csv, config.val_shards, config.templates):
        if each is not None:
            yield each
    if config.imagenet_val and not config.imagenet_labels:
        yield devkit_beside(config.imagenet_val)
    for own in sets:
        yield from own.images.pictures.archives
    for data in pairs:
        yield from map(data.samples.place, range(len(data.samples.sizes)))


def _check(option: str, path: Path, needed: Iterable[str | Path]) -> None:
    if path.exists() and not path.is_file():
        raise EvaluationError(
            f"{option} {path}: expected a file to write, found a folder or a device; name one"
        )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise EvaluationError(f"{option} {path}: expected a folder to write in, found no {folder}; make it")
    if not os.access(folder, os.W_OK):
        raise EvaluationError(
            f"{option} {path}: the folder {folder} cannot be written to; name a file elsewhere"
        )
    place = os.path.realpath(path)
    for each in map(os.path.realpath, needed):
        if place == each:
            raise EvaluationError(
                f"{option} {path}: expected a new file, found one that is needed; name another"
            )
        if Path(each).is_dir() and Path(place).is_relative_to(each):
            raise EvaluationError(
                f"{option} {path}: expected a file outside of what is evaluated, found one within {each}; "
                "name one elsewhere"
            )
