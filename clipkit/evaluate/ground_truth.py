"""Which class each of ImageNet's 50,000 validation pictures shows, from the files that people have of it.

ILSVRC2012's development kit numbers the classes from 1 in an order of its own, others number them from 0 by
sorted wnid. Numbers are taken as what gives the first ten pictures, whose classes are known, those classes.
"""

import os
import re
from importlib import resources
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.archives import is_archive, members, open_archive, read_member
from clipkit.evaluate.classes import listing
from clipkit.locations import opened

IMAGES = 50_000
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
FORMS = (
    f"{DEVKIT} or the ILSVRC2012_validation_ground_truth.txt in it, LOC_val_solution.csv, "
    "lines `name wnid`, or one wnid or label a line"
)
WNID = re.compile(r"n\d{8}")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_NAME = re.compile(r"(?:.*[/@])?ILSVRC2012_val_(\d{8})(?:_(n\d{8}))?(?:\.[A-Za-z]{3,4})?")
_HEADER = re.compile(r"ImageId\s*,\s*PredictionString", re.IGNORECASE)
_BOX = 5  # tokens of Kaggle's: a wnid and four edges
_MOST_BYTES = 50_000_000
# Labels of ILSVRC2012_val_00000001 … 10: n01751748, n09193705, n02105855 and so on.
KNOWN = (65, 970, 230, 809, 516, 57, 334, 415, 674, 332)


def picture_number(name: str) -> tuple[int, str | None] | None:
    """Return the number and the wnid, if there is one, in a validation picture's name; None if it is none."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found and 1 <= int(found[1]) <= IMAGES else None


def devkit_beside(root: Path) -> Path:
    """Return where the development kit lies if it is in the same folder as the pictures."""
    return root.absolute().parent / DEVKIT


def ilsvrc2012_ids() -> tuple[str, ...]:
    """Return the wnids by ILSVRC2012_ID, from 1 on, as in the meta.mat of the development kit."""
    data = resources.files("clipkit.evaluate") / "data" / "ilsvrc2012_ids.txt"
    return tuple(data.read_text(encoding="utf-8").split())


def read_ground_truth(path: Path, wnids: tuple[str, ...]) -> dict[int, int]:
    """Return labels by the number of the picture, which are places in the sorted `wnids`.

    `path` is the development kit, packed or not, or a text file: FORMS. Raises EvaluationError for what is
    none of these, contradicts itself or the known classes of the first ten pictures, or has numbers and none
    of these ten.
    """
    path, text = _text(path)
    lines = [line.strip() for line in text.rstrip().split("\n")]
    first = 1 if lines and _HEADER.fullmatch(lines[0]) else 0
    if len(lines) - first > IMAGES or not any(lines):
        raise EvaluationError(f"{path}: expected at most {IMAGES:,} lines, found {len(lines) - first:,}")
    values: dict[int, str] = {}
    named = first == 1 or len(lines[0].replace(",", " ").split()) > 1
    for row, line in enumerate(lines[first:], start=1):
        number, value = _read(line, row, named, f"{path} line {row + first}")
        if number in values:
            raise EvaluationError(f"{path}: expected one line a picture, found two of number {number:,}")
        values[number] = value
    return _labels(path, values, wnids)


def _text(path: Path) -> tuple[Path, str]:
    if is_archive(path):
        archive = open_archive(path)
        found = [each for each in members(archive, path) if each.name.rpartition("/")[2] == _TRUTH]
        if len(found) != 1:
            raise EvaluationError(f"{path}: expected ILSVRC2012's development kit, found no {_TRUTH} in it")
        return path, _decoded(
            path, read_member(archive, found[0]._replace(size=min(found[0].size, _MOST_BYTES)))
        )
    if path.is_dir():
        inside = [*path.glob(_TRUTH), *path.glob(f"data/{_TRUTH}"), *path.glob(f"*/data/{_TRUTH}")]
        if len(inside) != 1:
            raise EvaluationError(
                f"{path}: expected a folder with data/{_TRUTH}, found {len(inside)} of them"
            )
        path = inside[0]
    try:
        with os.fdopen(opened(path), "rb") as file:
            return path, _decoded(path, file.read(_MOST_BYTES))
    except OSError as error:
        raise EvaluationError(f"{path}: expected {FORMS}; found: {error.strerror}") from None


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise EvaluationError(f"{path}: expected {FORMS}; found no text") from None


def _read(line: str, row: int, named: bool, place: str) -> tuple[int, str]:
    """The number of a line's picture, and what it says of it."""
    tokens = line.replace(",", " ").split()
    number: int | None = row
    if named:
        found = picture_number(tokens[0]) if tokens else None
        number, tokens = (found[0] if found else None), tokens[1:]
    boxes = tokens[::_BOX]
    if len(tokens) > 1 and len(tokens) % _BOX == 0 and len(set(boxes)) == 1 and WNID.fullmatch(boxes[0]):
        tokens = boxes[:1]
    if number is None or len(tokens) != 1 or not (WNID.fullmatch(tokens[0]) or tokens[0].isdecimal()):
        wanted = "a line such as `ILSVRC2012_val_00000001.JPEG n01751748`" if named else "a wnid or a number"
        raise EvaluationError(f"{place}: expected {wanted}, found {line[:80]!r}")
    return number, tokens[0]


def _labels(path: Path, values: dict[int, str], wnids: tuple[str, ...]) -> dict[int, int]:
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    if all(value.isdecimal() for value in values.values()):
        readings = {
            "ILSVRC2012's ids 1…1000": {
                str(i): labels[wnid] for i, wnid in enumerate(ilsvrc2012_ids(), start=1)
            },
            "labels 0…999": {str(label): label for label in range(len(wnids))},
        }
    else:
        readings = {"wnids": labels}
    if len(readings) > 1 and values.keys().isdisjoint(range(1, len(KNOWN) + 1)):
        raise EvaluationError(
            f"{path}: these numbers could be {' or '.join(readings)}, and none of the first ten pictures, "
            "whose classes tell which, is among them; give wnids, or all pictures' numbers"
        )
    possible = {}
    for name, reading in readings.items():
        unknown = {value for value in values.values() if value not in reading}
        if len(readings) == 1 and unknown:
            raise EvaluationError(
                f"{path}: expected ImageNet's 1,000 wnids, found {listing(sorted(unknown))}"
            )
        if not unknown:
            possible[name] = {number: reading[value] for number, value in values.items()}
    fitting = {
        name: found
        for name, found in possible.items()
        if all(found.get(number, label) == label for number, label in enumerate(KNOWN, start=1))
    }
    if len(fitting) == 1:
        (found,) = fitting.values()
        return found
    raise EvaluationError(
        f"{path}: expected {wnids[KNOWN[0]]}, {wnids[KNOWN[1]]}, {wnids[KNOWN[2]]} … for the pictures "
        f"1, 2, 3 … in {' or '.join(readings)}, found other classes: the ground truth of another set or order"
    )
